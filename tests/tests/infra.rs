//! `infra/`, `azure.yaml` and the pipelines, as far as they can be checked without Azure: our own rules over Bicep, the
//! deploy script against recorded stand-ins of `az`, `kubectl` and `helm`, and what the pipelines call.
//!
//! What is not here (the Bicep compiler, PowerShell, Azure itself) is named in `docs/azure.md`.

mod infra {
    pub mod entra_page;
    pub mod identity;
    pub mod pipelines;
    pub mod python;
    pub mod scripts;
    pub mod stage;
}

use std::path::PathBuf;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the checkout").to_owned()
}
