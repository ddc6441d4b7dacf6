//! RetailTenants from a directory of YAML files, for use without a cluster.
//!
//! The directory is polled twice a second. Polling sees what notifications miss: ConfigMaps swapped by a symbolic link,
//! network and container file systems.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ffi::OsStr,
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use kube::api::DynamicObject;
use serde_json::{Value, json};

use super::{
    registry::{Applied, Objects},
    watch::Tenants,
};
use crate::metrics::Metrics;

const POLL: Duration = Duration::from_millis(500);
/// Larger files are not RetailTenants; 500 stores and 64 rules take about 2 MiB at most.
const FILE_MAX: u64 = 16 * 1024 * 1024;

/// Metadata that shows that a file has changed, without reading it.
type Stamp = (u64, i64, i64, u64);
/// Keyed by file name: with ten thousand files, the repeated directory path would take most of the memory.
type Stamps = BTreeMap<Arc<OsStr>, Stamp>;
/// Files that could not be used, fully or in part, with the reason.
pub type Problems = Vec<(PathBuf, String)>;

/// The files as last seen, and their objects.
pub struct Directory {
    path: PathBuf,
    stamps: Stamps,
    /// The objects of each file that could be read, by the registry's key. The objects of a file that breaks stay in
    /// force.
    held: HashMap<Arc<OsStr>, Box<[Box<str>]>>,
    objects: Objects,
    /// Files that could not be used. They are read again with every change, since the cause may have been in another
    /// file.
    broken: HashSet<Arc<OsStr>>,
}

impl Directory {
    /// Reads the directory for the first time. Broken files are reported and the others served.
    ///
    /// # Errors
    /// The directory itself cannot be read.
    pub fn open(path: PathBuf) -> io::Result<Self> {
        let (directory, problems) = Self::first(path)?;
        report(&problems);
        Ok(directory)
    }

    /// Reads the directory once: its objects, and the problem of each broken file.
    ///
    /// # Errors
    /// The directory itself cannot be read.
    pub fn read(path: PathBuf) -> io::Result<(Objects, Problems)> {
        Self::first(path).map(|(directory, problems)| (directory.objects, problems))
    }

    fn first(path: PathBuf) -> io::Result<(Self, Problems)> {
        let mut directory = Self {
            path,
            stamps: Stamps::new(),
            held: HashMap::new(),
            objects: Objects::default(),
            broken: HashSet::new(),
        };
        let stamps = stamps(&directory.path)?;
        let problems = directory.take(stamps);
        Ok((directory, problems))
    }

    /// Polls once; true if something has changed.
    fn look(&mut self) -> io::Result<bool> {
        let stamps = stamps(&self.path)?;
        let changed = stamps != self.stamps;
        if changed {
            report(&self.take(stamps));
        }
        Ok(changed)
    }

    /// Reads the files that are new or changed. Reading all of ten thousand because of one would take seconds.
    fn take(&mut self, stamps: Stamps) -> Problems {
        let mut problems = Problems::new();
        self.objects.begin_list();
        let mut broken = HashSet::new();
        let mut seen: HashMap<Box<str>, &OsStr> = HashMap::new();
        let mut held = HashMap::new();
        for (name, stamp) in &stamps {
            let path = self.path.join(&**name);
            let known = self.held.remove(name);
            let unchanged = self.stamps.get(name) == Some(stamp) && !self.broken.contains(name);
            let (keys, documents) = match &known {
                Some(keys) if unchanged => (Ok(keys.clone()), Vec::new()),
                _ => match read(&path) {
                    Ok(documents) => (Ok(documents.iter().map(super::registry::key).collect::<Box<[_]>>()), documents),
                    Err(problem) => (Err(problem), Vec::new()),
                },
            };
            // Otherwise the later of two objects with one name would silently replace the earlier.
            let keys = keys.and_then(|keys| match keys.iter().find_map(|key| Some((key, seen.get(key)?))) {
                Some((key, first)) => Err(format!("{key} stands in {} already", self.path.join(first).display())),
                None => Ok(keys),
            });
            let keys = match keys {
                Ok(keys) => {
                    seen.extend(keys.iter().map(|key| (key.clone(), &**name)));
                    if documents.is_empty() {
                        keys.iter().for_each(|key| self.objects.keep(key));
                    }
                    for document in documents {
                        if let Applied::Broken(problem) = self.objects.apply(document) {
                            problems.push((path.clone(), problem));
                        }
                    }
                    keys
                }
                Err(problem) => {
                    broken.insert(name.clone());
                    problems.push((path, problem));
                    let keys = known.unwrap_or_default();
                    keys.iter().for_each(|key| self.objects.keep(key));
                    keys
                }
            };
            held.insert(name.clone(), keys);
        }
        self.objects.end_list();
        (self.stamps, self.held, self.broken) = (stamps, held, broken);
        problems
    }

    /// Follows the directory forever. If it cannot be read, nothing changes.
    pub async fn follow(mut self, tenants: Arc<Tenants>, metrics: Arc<Metrics>) {
        tenants.publish(&self.objects, self.broken.len(), &metrics);
        tenants.set_synced();
        tracing::info!(directory = %self.path.display(), tenants = tenants.load().len(), "RetailTenants read");
        let mut failing = false;
        loop {
            tokio::time::sleep(POLL).await;
            let looked = tokio::task::spawn_blocking(move || {
                let looked = self.look();
                (self, looked)
            });
            // The runtime is shutting down.
            let Ok((directory, looked)) = looked.await else { return };
            self = directory;
            match looked {
                Ok(true) => tenants.publish(&self.objects, self.broken.len(), &metrics),
                Ok(false) => {}
                Err(ref error) if !failing => {
                    tracing::warn!(directory = %self.path.display(), %error, "the directory of RetailTenants cannot be read; those known so far stay in force");
                }
                Err(_) => {}
            }
            failing = looked.is_err();
        }
    }
}

fn report(problems: &Problems) {
    for (path, problem) in problems {
        tracing::warn!(file = %path.display(), problem, "this file cannot be used; its last good state stays in force");
    }
}

fn stamps(directory: &Path) -> io::Result<Stamps> {
    let mut stamps = Stamps::new();
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name();
        let path = directory.join(&name);
        let yaml = path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
        // Temporary files of editors and kubelets begin with a dot.
        let hidden = name.as_encoded_bytes().starts_with(b".");
        if !yaml || hidden {
            continue;
        }
        match std::fs::metadata(&path) {
            Ok(meta) if meta.is_file() => {
                stamps.insert(name.into(), (meta.len(), meta.ctime(), meta.ctime_nsec(), meta.ino()));
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(stamps)
}

/// The RetailTenants of a file. Without a status that names credentials, the first slot and the first key are in force,
/// as for a new tenant of the operator.
fn read(path: &Path) -> Result<Vec<DynamicObject>, String> {
    if std::fs::metadata(path).map_err(|error| error.to_string())?.len() > FILE_MAX {
        return Err("the file is too large".to_owned());
    }
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    let documents = serde_saphyr::from_multiple::<Value>(&text).map_err(|error| error.to_string())?;
    let mut objects = Vec::new();
    for mut document in documents {
        if document["kind"] != "RetailTenant" {
            continue;
        }
        if document["apiVersion"] != "retail.storefence.dev/v1alpha1" {
            return Err(format!("apiVersion is {}, not retail.storefence.dev/v1alpha1", document["apiVersion"]));
        }
        let Some(name) = document["metadata"]["name"].as_str().map(str::to_owned) else {
            return Err("metadata.name is missing".to_owned());
        };
        let metadata = &mut document["metadata"];
        if metadata["namespace"].is_null() {
            metadata["namespace"] = json!("default");
        }
        // A file has no identity other than its name.
        metadata["uid"] = json!(name);
        let status = &mut document["status"];
        if status.is_null() || (status.is_object() && status["credentials"].is_null()) {
            status["credentials"] = json!({"activeSlot": "a", "activeKid": 1});
        }
        objects.push(serde_json::from_value(document).map_err(|error| format!("{name}: {error}"))?);
    }
    Ok(objects)
}

#[cfg(test)]
mod tests {
    use super::Directory;

    fn tenant(name: &str, extra: &str) -> String {
        format!(
            "apiVersion: retail.storefence.dev/v1alpha1\nkind: RetailTenant\nmetadata: {{name: {name}}}\nspec:\n  \
             tenantId: {name}\n  entra: {{tenantId: 2f4e6d8c-1a3b-4c7e-9f0a-b2d4f6e8c0a2}}\n  databaseRef: {{name: retail}}\n  \
             keyVaultRef: {{name: main}}\n  stores: [{{name: Seattle, id: 00000000-0000-4000-8000-000000000001}}]\n{extra}"
        )
    }

    fn served(directory: &Directory) -> Vec<String> {
        let snapshot = directory.objects.snapshot();
        let ids = ["a", "b", "c"].into_iter().filter(|id| snapshot.get(&id.parse().expect("id")).is_some());
        ids.map(str::to_owned).collect()
    }

    #[test]
    fn files_come_change_break_and_go() {
        let temporary = tempfile::tempdir().expect("a directory");
        let write = |name: &str, text: &str| std::fs::write(temporary.path().join(name), text).expect("written");
        write("one.yaml", &format!("{}---\nkind: Other\n---\n{}", tenant("a", ""), tenant("b", "")));
        write("ignored.txt", "x: [");
        write(".hidden.yaml", "x: [");
        let mut directory = Directory::open(temporary.path().to_owned()).expect("readable");
        assert_eq!((served(&directory), directory.broken.len()), (vec!["a".to_owned(), "b".to_owned()], 0));
        assert!(!directory.look().expect("readable"));

        write("two.yml", &tenant("c", "status: {credentials: {activeSlot: b, activeKid: 4}}\n"));
        assert!(directory.look().expect("readable"));
        let snapshot = directory.objects.snapshot();
        let secret = |id: &str| snapshot.get(&id.parse().expect("id")).map(|tenant| tenant.database_secret());
        assert_eq!(secret("a").as_deref(), Some("sf-a-db-a"));
        assert_eq!(secret("c").as_deref(), Some("sf-c-db-b"));

        // Broken in three ways; the last good state stays in force each time.
        for broken in ["x: [", "kind: RetailTenant\n", &tenant("a", "  principals: [{name: x}]\n")] {
            write("one.yaml", broken);
            assert!(directory.look().expect("readable"));
            assert!(served(&directory).starts_with(&["a".to_owned()]), "{broken}");
        }
        // The last version names only a, and it is the object that is invalid: b is removed.
        assert_eq!(served(&directory), ["a", "c"]);

        write("three.yaml", &tenant("c", ""));
        directory.look().expect("readable");
        assert_eq!(directory.broken.len(), 1, "c stands in three.yaml and two.yml");
        assert_eq!(served(&directory), ["a", "c"]);
        // The problem of the unchanged two.yml was caused by three.yaml.
        std::fs::remove_file(temporary.path().join("three.yaml")).expect("there");
        directory.look().expect("readable");
        assert_eq!((served(&directory), directory.broken.len()), (vec!["a".to_owned(), "c".to_owned()], 0));
        write("three.yaml", &tenant("b", ""));
        directory.look().expect("readable");
        assert_eq!(served(&directory), ["a", "b", "c"], "and the unchanged files are still there");
        for file in ["one.yaml", "two.yml", "three.yaml"] {
            std::fs::remove_file(temporary.path().join(file)).expect("there");
        }
        directory.look().expect("readable");
        assert!(served(&directory).is_empty());
        std::fs::remove_dir_all(temporary.path()).expect("there");
        assert!(directory.look().is_err());
    }
}
