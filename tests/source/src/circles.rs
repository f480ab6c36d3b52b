//! Files of a crate that import each other in a circle.
//!
//! A file imports another when its code names a path that leads there: `use crate::…`, `super::…`, a child module, or the
//! same inline. Declaring a module is no import, and what only tests compile does not count. A file may name its own
//! parents: the `mod.rs` of a folder holds what the folder's files share, and is read with them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::Path,
};

use crate::source::{self, Mention, ModulePath, SourceFile};

/// One file's import of another: the first line that makes it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Import {
    /// The importing module.
    pub from: ModulePath,
    /// The imported module.
    pub to: ModulePath,
    /// Where it stands.
    pub line: usize,
    /// The path as written.
    pub written: String,
}

/// A set of files each of which reaches all others, with the imports between them.
#[derive(Debug)]
pub struct Circle {
    /// `(file, line, path as written, imported file)`.
    pub imports: Vec<(String, usize, String, String)>,
}

impl fmt::Display for Circle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (file, line, written, target) in &self.imports {
            writeln!(f, "  {file}:{line} names {written}, which is in {target}")?;
        }
        Ok(())
    }
}

/// The circles of the crate whose root file this is.
///
/// # Errors
/// When a file cannot be read or parsed.
pub fn circles(root: &Path) -> anyhow::Result<Vec<Circle>> {
    let tree = source::module_tree(root)?;
    let imports = imports(&tree);
    let name = |module: &ModulePath| tree[module].path.display().to_string();
    let circle = |members: BTreeSet<ModulePath>| {
        let inside = imports.iter().filter(|it| members.contains(&it.from) && members.contains(&it.to));
        let rows = inside.map(|it| (name(&it.from), it.line, it.written.clone(), name(&it.to)));
        Circle { imports: rows.collect() }
    };
    Ok(components(&imports).into_iter().map(circle).collect())
}

fn imports(tree: &BTreeMap<ModulePath, SourceFile>) -> Vec<Import> {
    let mut first: BTreeMap<(ModulePath, ModulePath), Import> = BTreeMap::new();
    for (module, file) in tree {
        for mention in source::mentions(&file.syntax).into_iter().filter(|it| !it.test) {
            let Some(target) = target(tree, module, &mention) else { continue };
            if !module.starts_with(&target) {
                first.entry((module.clone(), target.clone())).or_insert_with(|| Import {
                    from: module.clone(),
                    to: target,
                    line: mention.line,
                    written: mention.segments.join("::"),
                });
            }
        }
    }
    first.into_values().collect()
}

/// The module whose file a path leads to; `None` for paths into other crates and names of the file's own.
fn target(tree: &BTreeMap<ModulePath, SourceFile>, module: &[String], mention: &Mention) -> Option<ModulePath> {
    let mut at = [module, &mention.inline].concat();
    let mut rest = mention.segments.as_slice();
    match rest.first()?.as_str() {
        "crate" => {
            at.clear();
            rest = &rest[1..];
        }
        "self" => rest = &rest[1..],
        "super" => {
            while rest.first().is_some_and(|it| it == "super") {
                at.pop()?;
                rest = &rest[1..];
            }
        }
        child => {
            let known = tree.contains_key(&[at.as_slice(), &[child.to_owned()]].concat());
            // A single word is a name in scope, not a way into a module.
            if !known || rest.len() == 1 {
                return None;
            }
        }
    }
    at.extend(rest.iter().cloned());
    while !tree.contains_key(&at) {
        at.pop()?;
    }
    Some(at)
}

/// The strongly connected components of more than one module.
fn components(imports: &[Import]) -> Vec<BTreeSet<ModulePath>> {
    let reachable = |start: &ModulePath, forward: bool| {
        let mut reached = BTreeSet::from([start.clone()]);
        let mut open = vec![start.clone()];
        while let Some(module) = open.pop() {
            for import in imports {
                let (from, to) = if forward { (&import.from, &import.to) } else { (&import.to, &import.from) };
                if *from == module && reached.insert(to.clone()) {
                    open.push(to.clone());
                }
            }
        }
        reached
    };
    let mut open: BTreeSet<ModulePath> = imports.iter().map(|it| it.from.clone()).collect();
    let mut found = Vec::new();
    while let Some(module) = open.pop_first() {
        let component: BTreeSet<_> =
            reachable(&module, true).intersection(&reachable(&module, false)).cloned().collect();
        open.retain(|it| !component.contains(it));
        if component.len() > 1 {
            found.push(component);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn circles_of(files: &[(&str, &str)]) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let found = circles(&folder.path().join("lib.rs")).unwrap();
        let prefix = format!("{}/", folder.path().display());
        found.iter().map(|circle| circle.to_string().replace(&prefix, "")).collect()
    }

    #[test]
    fn two_files_that_import_each_other_are_found_with_their_lines() {
        let found = circles_of(&[
            ("lib.rs", "mod a; mod b;"),
            ("a.rs", "\nuse crate::b::B;\npub struct A(B);"),
            ("b.rs", "pub struct B; fn f() {\n super::a::g() }"),
        ]);
        assert_eq!(
            found,
            ["  a.rs:2 names crate::b::B, which is in b.rs\n  b.rs:2 names super::a::g, which is in a.rs\n"]
        );
    }

    #[test]
    fn a_child_may_name_its_parents_but_not_a_file_that_comes_back() {
        let found = circles_of(&[
            ("lib.rs", "mod a;"),
            ("a/mod.rs", "mod b; mod c; pub struct A; fn f() { b::g(A) }"),
            ("a/b.rs", "use super::A; pub fn g(_: A) { super::c::h() }"),
            ("a/c.rs", "use super::b::g; pub fn h() { }"),
        ]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("a/b.rs:1 names super::c::h") && !found[0].contains("mod.rs"), "{found:?}");
    }

    #[test]
    fn declaring_using_downwards_and_tests_are_no_circle() {
        let found = circles_of(&[
            ("lib.rs", "mod a; mod b; fn f() { a::g() }"),
            ("a.rs", "use crate::b; pub fn g() { b::h() }"),
            ("b.rs", "pub fn h() {} #[cfg(test)] mod tests { use crate::a::g; }"),
        ]);
        assert!(found.is_empty(), "{found:?}");
    }
}
