//! A crate's modules, and which file uses which. An item that a module exports again is the file's
//! that defines it, so that a folder's front does not make circles with what is behind it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path as FilePath;

use anyhow::{Context as _, Result, bail};

use super::read::{Module, Path};

/// Imports that lead to each other end here.
const DEPTH: usize = 32;

/// A crate.
pub struct Crate {
    /// Files, relative to the workspace.
    files: Vec<String>,
    /// Every module with its file.
    modules: BTreeMap<Path, (usize, Module)>,
    /// The modules that are a file, by file.
    paths: Vec<Path>,
}

impl Crate {
    /// Reads the crate whose root is this file.
    pub fn read(workspace: &FilePath, root: &str) -> Result<Self> {
        let mut krate = Self {
            files: Vec::new(),
            modules: BTreeMap::new(),
            paths: Vec::new(),
        };
        let folder = root.rsplit_once('/').map_or("", |(folder, _)| folder);
        krate.add_file(workspace, root, folder, Vec::new())?;
        Ok(krate)
    }

    /// `folder` is where the module's own modules lie.
    fn add_file(
        &mut self,
        workspace: &FilePath,
        file: &str,
        folder: &str,
        path: Path,
    ) -> Result<()> {
        let text =
            fs::read_to_string(workspace.join(file)).with_context(|| format!("reading {file}"))?;
        let module = Module::parse(&text).with_context(|| format!("reading {file}"))?;
        let number = self.files.len();
        self.files.push(file.to_owned());
        self.paths.push(path.clone());
        self.add_module(workspace, number, folder, path, module)
    }

    fn add_module(
        &mut self,
        workspace: &FilePath,
        file: usize,
        folder: &str,
        path: Path,
        mut module: Module,
    ) -> Result<()> {
        for (name, given) in std::mem::take(&mut module.files) {
            let inner = [path.as_slice(), std::slice::from_ref(&name)].concat();
            let beside = format!("{folder}/{name}.rs");
            let within = format!("{folder}/{name}/mod.rs");
            let place = match given {
                Some(given) => format!("{folder}/{given}"),
                None if workspace.join(&beside).is_file() => beside,
                None if workspace.join(&within).is_file() => within,
                None => bail!("{}: there is no file of module {name}", self.files[file]),
            };
            self.add_file(workspace, &place, &format!("{folder}/{name}"), inner)?;
        }
        for (name, inner) in std::mem::take(&mut module.inline) {
            let inner_path = [path.as_slice(), std::slice::from_ref(&name)].concat();
            self.add_module(
                workspace,
                file,
                &format!("{folder}/{name}"),
                inner_path,
                inner,
            )?;
        }
        self.modules.insert(path, (file, module));
        Ok(())
    }

    /// The name of a file.
    pub fn file(&self, number: usize) -> &str {
        &self.files[number]
    }

    /// Modules that hold others.
    pub fn folders(&self) -> BTreeSet<Path> {
        let above = self.paths.iter().filter(|path| !path.is_empty());
        above.map(|path| path[..path.len() - 1].to_vec()).collect()
    }

    /// The part of a folder that a file lies in, by name; `None` for the folder's own file and for
    /// files elsewhere.
    pub fn child_of(&self, folder: &Path, file: usize) -> Option<String> {
        let path = &self.paths[file];
        (path.len() > folder.len() && path.starts_with(folder)).then(|| {
            let root = self.files[0].rsplit_once('/').map_or("", |(root, _)| root);
            format!("{root}/{}", path[..=folder.len()].join("/"))
        })
    }

    /// Which file uses which.
    pub fn uses(&self) -> BTreeSet<(usize, usize)> {
        let mut uses = BTreeSet::new();
        for (path, (file, module)) in &self.modules {
            let imports = module.imports.iter();
            let mentions = module.mentions.iter();
            for used in imports.chain(mentions) {
                if let Some(used) = self.lookup(path, used, 0)
                    && used != *file
                {
                    uses.insert((*file, used));
                }
            }
        }
        uses
    }

    /// The file that defines what a path in a module means; `None` for other crates'.
    fn lookup(&self, module: &Path, path: &[String], depth: usize) -> Option<usize> {
        let (first, rest) = path.split_first()?;
        let (mut at, mut rest) = match first.as_str() {
            "crate" => (Path::new(), rest),
            "self" => (module.clone(), rest),
            "super" => (module.split_last()?.1.to_vec(), rest),
            _ => return self.within(module, path, depth),
        };
        while let [up, more @ ..] = rest
            && up == "super"
        {
            at.pop()?;
            rest = more;
        }
        let own = self.modules.get(&at).map(|(file, _)| *file);
        if rest.is_empty() {
            return own;
        }
        // What a macro makes is where the macro is called.
        self.within(&at, rest, depth).or(own)
    }

    /// The file that defines what a path that begins in this module means.
    fn within(&self, module: &Path, path: &[String], depth: usize) -> Option<usize> {
        let (first, rest) = path.split_first()?;
        let (file, contents) = self.modules.get(module)?;
        let inner = [module.as_slice(), std::slice::from_ref(first)].concat();
        if let Some((file, _)) = self.modules.get(&inner) {
            return match rest {
                [] => Some(*file),
                rest => self.within(&inner, rest, depth).or(Some(*file)),
            };
        }
        if contents.items.contains(first) {
            return Some(*file);
        }
        if depth > DEPTH {
            return None;
        }
        if let Some(target) = contents.aliases.get(first)
            && target.as_slice() != std::slice::from_ref(first)
        {
            let path = [target.as_slice(), rest].concat();
            return self.lookup(module, &path, depth + 1);
        }
        contents.globs.iter().find_map(|glob| {
            let path = [glob.as_slice(), path].concat();
            // Only what is really there: a glob may stand for another one's names.
            let found = self.lookup(module, &path, depth + 1)?;
            self.defines(found, path.last()?).then_some(found)
        })
    }

    fn defines(&self, file: usize, name: &str) -> bool {
        let modules = self.modules.values().filter(|(own, _)| *own == file);
        modules
            .into_iter()
            .any(|(_, module)| module.items.contains(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uses(files: &[(&str, &str)]) -> Vec<(String, String)> {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let krate = Crate::read(dir.path(), files[0].0).unwrap();
        let uses = krate.uses().into_iter();
        uses.map(|(from, to)| (krate.file(from).to_owned(), krate.file(to).to_owned()))
            .collect()
    }

    fn arrow(from: &str, to: &str) -> (String, String) {
        (from.to_owned(), to.to_owned())
    }

    #[test]
    fn what_is_exported_again_is_its_definers() {
        let found = uses(&[
            ("src/lib.rs", "mod a;\nmod b;\n"),
            ("src/a/mod.rs", "mod deep;\npub use deep::Thing;\n"),
            ("src/a/deep.rs", "pub struct Thing;\n"),
            ("src/b.rs", "use crate::a::Thing;\nfn f(_: Thing) {}\n"),
        ]);
        assert_eq!(found, [arrow("src/b.rs", "src/a/deep.rs")]);
    }

    #[test]
    fn paths_in_code_and_macros_count_and_tests_do_not() {
        let found = uses(&[
            ("src/lib.rs", "mod a;\nmod b;\nmod c;\nmod d;\n"),
            (
                "src/a.rs",
                "fn f() { crate::b::g(); print!(\"{}\", super::c::h()); }\n\
                 #[cfg(test)]\nmod tests { use crate::d::i; }\n",
            ),
            ("src/b.rs", "use std::fmt;\npub fn g() {}\n"),
            ("src/c.rs", "pub(in super) fn h() -> u8 { 0 }\n"),
            ("src/d.rs", "pub fn i() {}\n"),
        ]);
        assert_eq!(
            found,
            [arrow("src/a.rs", "src/b.rs"), arrow("src/a.rs", "src/c.rs")]
        );
    }

    #[test]
    fn a_part_that_uses_what_its_front_defines_makes_a_circle() {
        let found = uses(&[
            ("src/lib.rs", "mod a;\n"),
            (
                "src/a/mod.rs",
                "mod deep;\nuse deep::f;\npub struct S;\nfn g() { f() }\n",
            ),
            (
                "src/a/deep.rs",
                "use super::S;\npub fn f() { let _ = S; }\n",
            ),
        ]);
        assert_eq!(
            found,
            [
                arrow("src/a/mod.rs", "src/a/deep.rs"),
                arrow("src/a/deep.rs", "src/a/mod.rs")
            ]
        );
    }
}
