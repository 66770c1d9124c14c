//! Kernel modules and what they depend on.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// A module, uncompressed.
#[derive(Debug)]
pub(super) struct Module {
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
}

/// All modules of an unpacked kernel package.
#[derive(Debug)]
pub(super) struct Modules {
    files: Vec<PathBuf>,
}

impl Modules {
    /// Looks for them.
    pub(super) fn find(root: &Path, release: &str) -> Result<Modules> {
        // Where /usr and / are one, the package has them below /usr.
        let places = ["lib/modules", "usr/lib/modules"].map(|place| root.join(place).join(release));
        let place = places.iter().find(|place| place.is_dir()).context("the package has no modules")?;
        let mut files = Vec::new();
        collect(place, &mut files)?;
        Ok(Modules { files })
    }

    /// These modules, each after those that it depends on.
    pub(super) fn in_order(&self, names: &[&str]) -> Result<Vec<Module>> {
        let mut loaded: Vec<Module> = Vec::new();
        for name in names {
            self.add(name, &mut loaded)?;
        }
        Ok(loaded)
    }

    fn add(&self, name: &str, loaded: &mut Vec<Module>) -> Result<()> {
        if loaded.iter().any(|module| module.name == name) {
            return Ok(());
        }
        let file = self.files.iter().find(|file| module_name(file).as_deref() == Some(name));
        let file = file.with_context(|| format!("this kernel has no module {name}"))?;
        let bytes = read(file)?;
        for dependency in dependencies(&bytes) {
            self.add(&dependency, loaded)?;
        }
        loaded.push(Module { name: name.to_owned(), bytes });
        Ok(())
    }
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        // Not following links: `build` leads out of the package.
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), files)?;
        } else {
            files.push(entry.path());
        }
    }
    Ok(())
}

/// The kernel's name for the module in a file: `-` and `_` are the same.
fn module_name(file: &Path) -> Option<String> {
    let (name, _) = file.file_name()?.to_str()?.split_once(".ko")?;
    Some(name.replace('-', "_"))
}

fn read(file: &Path) -> Result<Vec<u8>> {
    match file.extension().and_then(|extension| extension.to_str()) {
        Some("ko") => fs::read(file).with_context(|| format!("cannot read {}", file.display())),
        Some("xz") => {
            let output = Command::new("xz").args(["--decompress", "--stdout"]).arg(file).output();
            let output = output.context("cannot start xz")?;
            if !output.status.success() {
                bail!("xz: {}", String::from_utf8_lossy(&output.stderr).trim_end());
            }
            Ok(output.stdout)
        }
        _ => bail!("{}: not a kind of module that is known here", file.display()),
    }
}

/// The `depends` entry of a module's own description, which is a list of NUL-terminated `key=value`.
fn dependencies(module: &[u8]) -> Vec<String> {
    let entry = module.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(b"depends="));
    let list = String::from_utf8_lossy(entry.unwrap_or_default()).into_owned();
    list.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_comes_after_what_it_needs() {
        let root = std::env::temp_dir().join(format!("egress-warden-modules-{}", std::process::id()));
        let place = root.join("usr/lib/modules/6.1.0/kernel");
        fs::create_dir_all(&place).unwrap();
        for (name, depends) in
            [("top", "left-side,right"), ("left-side", "base"), ("right", "base"), ("base", "")]
        {
            fs::write(place.join(format!("{name}.ko")), format!("x\0license=GPL\0depends={depends}\0"))
                .unwrap();
        }
        let modules = Modules::find(&root, "6.1.0").unwrap();
        let order: Vec<String> =
            modules.in_order(&["top"]).unwrap().into_iter().map(|module| module.name).collect();
        let missing = modules.in_order(&["veth"]).unwrap_err().to_string();
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(order, ["base", "left_side", "right", "top"]);
        assert_eq!(missing, "this kernel has no module veth");
    }
}
