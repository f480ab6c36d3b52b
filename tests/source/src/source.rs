//! Rust source as the tests of this crate read it: the files of a crate in their module tree, and every path that a file
//! names.
//!
//! Reads files, parses them with syn and decides nothing; [`crate::circles`], [`crate::unused`] and [`crate::measure`]
//! do. A macro's input is not expanded: the paths in it are taken as they stand.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use proc_macro2::{TokenStream, TokenTree};
use syn::{spanned::Spanned as _, visit::Visit};

/// The names of a module, from the crate's root: `["store", "wire"]`.
pub type ModulePath = Vec<String>;

/// One parsed file.
pub struct SourceFile {
    /// Its path as it was opened.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
    /// What syn made of it.
    pub syntax: syn::File,
}

impl SourceFile {
    /// Reads and parses a file.
    ///
    /// # Errors
    /// When it cannot be read or is not Rust.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))?;
        let syntax = syn::parse_file(&text).with_context(|| format!("could not parse {}", path.display()))?;
        Ok(Self { path: path.to_owned(), text, syntax })
    }
}

/// Every Rust file below a folder, sorted by path; none if there is no such folder.
///
/// # Errors
/// When a file cannot be read or parsed.
pub fn files_below(folder: &Path) -> anyhow::Result<Vec<SourceFile>> {
    paths_below(folder, &["rs"]).iter().map(|path| SourceFile::read(path)).collect()
}

/// The files below a folder that have one of the extensions, sorted.
#[must_use]
pub fn paths_below(folder: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for path in fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|it| extensions.iter().any(|wanted| it == *wanted)) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The files below a folder that only tests compile, as paths and folders: each module declared `#[cfg(test)] mod …;`.
#[must_use]
pub fn test_paths(files: &[SourceFile]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for file in files {
        let Some(folder) = file.path.parent() else { continue };
        let stem = file.path.file_stem().unwrap_or_default();
        let children =
            if ["mod", "lib", "main"].iter().any(|it| stem == *it) { folder.into() } else { folder.join(stem) };
        for item in &file.syntax.items {
            if let syn::Item::Mod(declared) = item
                && declared.content.is_none()
                && is_for_tests(&declared.attrs)
            {
                let name = declared.ident.to_string();
                found.extend([children.join(format!("{name}.rs")), children.join(name)]);
            }
        }
    }
    found
}

/// The files of one compiled crate by module, without those that only tests compile. `root` is its `lib.rs`, `main.rs`
/// or a file of `src/bin`.
///
/// # Errors
/// When a declared module has no file, or a file cannot be parsed.
pub fn module_tree(root: &Path) -> anyhow::Result<BTreeMap<ModulePath, SourceFile>> {
    let folder = root.parent().context("a crate's root is in a folder")?;
    let mut tree = BTreeMap::new();
    let mut open = vec![(ModulePath::new(), root.to_owned(), folder.to_owned())];
    while let Some((module, path, children)) = open.pop() {
        let file = SourceFile::read(&path)?;
        for item in &file.syntax.items {
            let syn::Item::Mod(declared) = item else { continue };
            if declared.content.is_some() || is_for_tests(&declared.attrs) {
                continue;
            }
            let name = declared.ident.to_string();
            let candidates = [children.join(format!("{name}.rs")), children.join(&name).join("mod.rs")];
            let child = candidates.into_iter().find(|it| it.is_file());
            let child = child.with_context(|| format!("{}: module \"{name}\" has no file", path.display()))?;
            open.push(([module.clone(), vec![name.clone()]].concat(), child, children.join(&name)));
        }
        tree.insert(module, file);
    }
    Ok(tree)
}

/// A path that a file names: in a `use`, in an expression or type, in the input of a macro or an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mention {
    /// Its segments as written, `crate`, `self` and `super` included.
    pub segments: Vec<String>,
    /// The line on which it stands.
    pub line: usize,
    /// Modules of this very file around it.
    pub inline: ModulePath,
    /// Whether only tests compile it.
    pub test: bool,
}

/// Every path that a file names.
#[must_use]
pub fn mentions(file: &syn::File) -> Vec<Mention> {
    let mut collector = Collector::default();
    collector.visit_file(file);
    collector.found
}

/// Whether an item's attributes leave it to tests: `#[cfg(test)]`, also within `all(…)`, or a test function.
#[must_use]
pub fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let path = attribute.path();
        let last = path.segments.last().map(|it| it.ident.to_string()).unwrap_or_default();
        match &attribute.meta {
            syn::Meta::List(list) if path.is_ident("cfg") => {
                let mut words = Vec::new();
                identifiers(list.tokens.clone(), &mut words);
                words.iter().any(|it| it == "test") && words.iter().all(|it| it != "not" && it != "any")
            }
            _ => last == "test",
        }
    })
}

fn identifiers(tokens: TokenStream, found: &mut Vec<String>) {
    for token in tokens {
        match token {
            TokenTree::Ident(word) => found.push(word.to_string()),
            TokenTree::Group(group) => identifiers(group.stream(), found),
            TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
    }
}

#[derive(Default)]
struct Collector {
    found: Vec<Mention>,
    inline: ModulePath,
    /// How many enclosing items are for tests.
    test_depth: usize,
}

impl Collector {
    fn add(&mut self, segments: Vec<String>, line: usize) {
        self.found.push(Mention { segments, line, inline: self.inline.clone(), test: self.test_depth > 0 });
    }

    /// Visits an item's inside, noting whether only tests compile it.
    fn item(&mut self, attributes: &[syn::Attribute], visit: impl FnOnce(&mut Self)) {
        let test = usize::from(is_for_tests(attributes));
        self.test_depth += test;
        visit(self);
        self.test_depth -= test;
    }

    fn use_tree(&mut self, before: &[String], tree: &syn::UseTree) {
        match tree {
            syn::UseTree::Path(path) => {
                let before = [before, &[path.ident.to_string()]].concat();
                self.use_tree(&before, &path.tree);
            }
            syn::UseTree::Name(syn::UseName { ident }) | syn::UseTree::Rename(syn::UseRename { ident, .. }) => {
                let line = ident.span().start().line;
                let mut segments = before.to_vec();
                if ident != "self" || before.is_empty() {
                    segments.push(ident.to_string());
                }
                self.add(segments, line);
            }
            syn::UseTree::Glob(glob) => self.add(before.to_vec(), glob.span().start().line),
            syn::UseTree::Group(group) => group.items.iter().for_each(|tree| self.use_tree(before, tree)),
        }
    }

    /// The `a::b::c` of a macro's input, and single words of it.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut segments: Vec<String> = Vec::new();
        let (mut line, mut colons) = (0, 0);
        for token in tokens {
            match token {
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Ident(word) => {
                    if colons != 2 && !segments.is_empty() {
                        self.add(std::mem::take(&mut segments), line);
                    }
                    line = word.span().start().line;
                    segments.push(word.to_string());
                    colons = 0;
                }
                other => {
                    if !segments.is_empty() {
                        self.add(std::mem::take(&mut segments), line);
                    }
                    colons = 0;
                    if let TokenTree::Group(group) = other {
                        self.tokens(group.stream());
                    }
                }
            }
        }
        if !segments.is_empty() {
            self.add(segments, line);
        }
    }
}

impl<'ast> Visit<'ast> for Collector {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        let attributes: &[syn::Attribute] = match item {
            syn::Item::Fn(it) => &it.attrs,
            syn::Item::Impl(it) => &it.attrs,
            syn::Item::Use(it) => &it.attrs,
            syn::Item::Mod(it) => &it.attrs,
            syn::Item::Const(it) => &it.attrs,
            syn::Item::Static(it) => &it.attrs,
            syn::Item::Struct(it) => &it.attrs,
            syn::Item::Enum(it) => &it.attrs,
            syn::Item::Type(it) => &it.attrs,
            _ => &[],
        };
        self.item(attributes, |this| syn::visit::visit_item(this, item));
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.item(&function.attrs, |this| syn::visit::visit_impl_item_fn(this, function));
    }

    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        self.inline.push(module.ident.to_string());
        syn::visit::visit_item_mod(self, module);
        self.inline.pop();
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.use_tree(&[], &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let line = path.span().start().line;
        self.add(path.segments.iter().map(|segment| segment.ident.to_string()).collect(), line);
        syn::visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.visit_path(&call.path);
        self.tokens(call.tokens.clone());
    }

    fn visit_meta_list(&mut self, list: &'ast syn::MetaList) {
        self.visit_path(&list.path);
        self.tokens(list.tokens.clone());
    }

    /// `pub(in super::a)` says who may see an item; it imports nothing.
    fn visit_vis_restricted(&mut self, _: &'ast syn::VisRestricted) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(source: &str) -> Vec<(String, bool)> {
        let file = syn::parse_file(source).unwrap();
        mentions(&file).into_iter().map(|it| (it.segments.join("::"), it.test)).collect()
    }

    #[test]
    fn paths_of_uses_bodies_and_macros_are_found() {
        let found = named("use a::{b::{self, C}, d::*}; fn f() { e::g(); h!(x = i::j(k), l); }");
        for path in ["a::b", "a::b::C", "a::d", "e::g", "h", "i::j", "k", "l"] {
            assert!(found.contains(&(path.to_owned(), false)), "{path} in {found:?}");
        }
    }

    #[test]
    fn what_only_tests_compile_is_marked() {
        let found =
            named("use a::B; #[cfg(test)] mod tests { use c::D; fn f() { e::g() } } #[cfg(not(test))] use h::I;");
        let marked: Vec<_> = found.iter().filter(|(_, test)| *test).map(|(path, _)| path.as_str()).collect();
        assert!(marked.contains(&"c::D") && marked.contains(&"e::g") && !marked.contains(&"a::B"), "{marked:?}");
        assert!(found.contains(&("h::I".to_owned(), false)));
    }

    #[test]
    fn a_visibility_is_no_mention() {
        assert!(named("pub(in crate::a) struct B;").is_empty());
    }
}
