//! What one file says: its modules, what they import, define and mention, and how long its functions
//! are. What is compiled for tests only is left out.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use proc_macro2::{TokenStream, TokenTree};
use syn::spanned::Spanned as _;
use syn::visit::{self, Visit};
use syn::{Attribute, File, Item, UseTree};

/// A path, segment by segment.
pub type Path = Vec<String>;

/// One module as it is written.
#[derive(Default)]
pub struct Module {
    /// Names that are imported or exported again, with what they stand for.
    pub aliases: BTreeMap<String, Path>,
    /// Modules of which everything is imported or exported again.
    pub globs: Vec<Path>,
    /// What is imported for the module's own use.
    pub imports: Vec<Path>,
    /// Paths in its code.
    pub mentions: BTreeSet<Path>,
    /// Names it defines.
    pub items: BTreeSet<String>,
    /// Modules that lie in files of their own, with the file if it is named.
    pub files: Vec<(String, Option<String>)>,
    /// Modules in the same file.
    pub inline: Vec<(String, Module)>,
}

impl Module {
    /// Reads a file.
    pub fn parse(text: &str) -> Result<Self> {
        let file: File = syn::parse_file(text)?;
        Ok(Self::of(&file.items))
    }

    fn of(items: &[Item]) -> Self {
        let mut module = Self::default();
        for item in items {
            module.item(item);
        }
        module
    }

    fn item(&mut self, item: &Item) {
        if is_test(attributes(item)) {
            return;
        }
        if let Some(name) = name(item) {
            self.items.insert(name);
        }
        match item {
            Item::Use(item) => {
                let exported = !matches!(item.vis, syn::Visibility::Inherited);
                self.import(&item.tree, &mut Vec::new(), exported);
            }
            Item::Mod(item) => {
                let name = item.ident.to_string();
                match &item.content {
                    Some((_, items)) => self.inline.push((name, Self::of(items))),
                    None => self.files.push((name, file_of(&item.attrs))),
                }
            }
            other => Mentions(&mut self.mentions).visit_item(other),
        }
    }

    fn import(&mut self, tree: &UseTree, path: &mut Path, exported: bool) {
        match tree {
            UseTree::Path(inner) => {
                path.push(inner.ident.to_string());
                self.import(&inner.tree, path, exported);
                path.pop();
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.import(tree, path, exported);
                }
            }
            UseTree::Glob(_) => {
                self.globs.push(path.clone());
                if !exported {
                    self.imports.push(path.clone());
                }
            }
            UseTree::Name(name) => self.alias(path, &name.ident, &name.ident, exported),
            UseTree::Rename(renamed) => self.alias(path, &renamed.ident, &renamed.rename, exported),
        }
    }

    fn alias(&mut self, path: &Path, name: &syn::Ident, alias: &syn::Ident, exported: bool) {
        let mut path = path.clone();
        let mut alias = alias.to_string();
        if name == "self" {
            if alias == "self" {
                alias = path.last().cloned().unwrap_or_default();
            }
        } else {
            path.push(name.to_string());
        }
        if !exported {
            self.imports.push(path.clone());
        }
        self.aliases.insert(alias, path);
    }
}

/// Functions by name, with their lines.
pub fn functions(text: &str) -> Result<Vec<(String, usize)>> {
    struct Functions(Vec<(String, usize)>);
    impl Functions {
        fn add(&mut self, signature: &syn::Signature, end: proc_macro2::Span) {
            let lines = end.end().line - signature.span().start().line + 1;
            self.0.push((signature.ident.to_string(), lines));
        }
    }
    impl<'a> Visit<'a> for Functions {
        fn visit_item_fn(&mut self, function: &'a syn::ItemFn) {
            self.add(&function.sig, function.block.span());
            visit::visit_item_fn(self, function);
        }
        fn visit_impl_item_fn(&mut self, function: &'a syn::ImplItemFn) {
            self.add(&function.sig, function.block.span());
            visit::visit_impl_item_fn(self, function);
        }
        fn visit_trait_item_fn(&mut self, function: &'a syn::TraitItemFn) {
            if let Some(block) = &function.default {
                self.add(&function.sig, block.span());
            }
            visit::visit_trait_item_fn(self, function);
        }
    }
    let mut functions = Functions(Vec::new());
    functions.visit_file(&syn::parse_file(text)?);
    Ok(functions.0)
}

/// Collects paths, those within macros included.
struct Mentions<'a>(&'a mut BTreeSet<Path>);

impl<'a> Visit<'a> for Mentions<'_> {
    fn visit_path(&mut self, path: &'a syn::Path) {
        let segments = path.segments.iter();
        self.0
            .insert(segments.map(|s| s.ident.to_string()).collect());
        visit::visit_path(self, path);
    }

    /// Where a name may be seen is no use of that place.
    fn visit_visibility(&mut self, _: &'a syn::Visibility) {}

    fn visit_macro(&mut self, invoked: &'a syn::Macro) {
        // What a macro's definition mentions belongs to the place where it is used.
        if !invoked.path.is_ident("macro_rules") {
            self.visit_path(&invoked.path);
            mentions(&invoked.tokens, self.0);
        }
    }

    fn visit_item(&mut self, item: &'a Item) {
        if !is_test(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, function: &'a syn::ImplItemFn) {
        if !is_test(&function.attrs) {
            visit::visit_impl_item_fn(self, function);
        }
    }
}

/// The paths in tokens that nobody has parsed.
fn mentions(tokens: &TokenStream, found: &mut BTreeSet<Path>) {
    let mut path = Path::new();
    let mut colons = 0;
    for token in tokens.clone() {
        match token {
            TokenTree::Ident(name) => {
                if colons != 2 && !path.is_empty() {
                    found.insert(std::mem::take(&mut path));
                }
                path.push(name.to_string());
                colons = 0;
            }
            TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
            other => {
                if !path.is_empty() {
                    found.insert(std::mem::take(&mut path));
                }
                colons = 0;
                if let TokenTree::Group(group) = other {
                    mentions(&group.stream(), found);
                }
            }
        }
    }
    if !path.is_empty() {
        found.insert(path);
    }
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let condition = attribute
            .path()
            .is_ident("cfg")
            .then(|| attribute.parse_args::<syn::Ident>());
        attribute.path().is_ident("test") || matches!(condition, Some(Ok(name)) if name == "test")
    })
}

fn file_of(attributes: &[Attribute]) -> Option<String> {
    attributes
        .iter()
        .find_map(|attribute| match &attribute.meta {
            syn::Meta::NameValue(pair) if pair.path.is_ident("path") => match &pair.value {
                syn::Expr::Lit(syn::ExprLit {
                    lit: syn::Lit::Str(file),
                    ..
                }) => Some(file.value()),
                _ => None,
            },
            _ => None,
        })
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

fn name(item: &Item) -> Option<String> {
    let name = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::TraitAlias(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        _ => return None,
    };
    Some(name.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_functions() {
        let text = "/// Doc.\nfn a() {\n    b();\n}\nimpl T {\n    fn c(\n    ) {}\n}\n";
        let found = functions(text).unwrap();
        assert_eq!(found, [("a".to_owned(), 3), ("c".to_owned(), 2)]);
    }
}
