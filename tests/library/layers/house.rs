//! The library as its sources make it: modules, and what each path in them means.

use std::collections::{BTreeMap, BTreeSet};

use quote::ToTokens;
use syn::{
    Attribute, Block, File, ImplItem, Item, ItemImpl, ItemMod, ItemTrait, Meta, Stmt, TraitItem,
    visit_mut::{self, VisitMut},
};

use super::names::{Import, Named, Names, Path};

/// One file of the library.
pub(crate) struct Source {
    pub(crate) file: String,
    pub(crate) module: Path,
    pub(crate) names: Names,
    /// The lines of the file's own documentation.
    pub(crate) documentation: Vec<String>,
    /// The file says `#![allow(unsafe_code)]`.
    pub(crate) allows_unsafe: bool,
}

/// What a path leads to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    /// A module or an item of this crate; without a segment the crate as a whole.
    Here(Path),
    /// Something of another crate, or of the function around it.
    Elsewhere(Path),
}

/// All code of the library but its unit tests.
#[derive(Default)]
pub(crate) struct House {
    pub(crate) sources: Vec<Source>,
    pub(crate) modules: BTreeSet<Path>,
    /// Modules of unit tests: files that are not read.
    pub(crate) tests: BTreeSet<Path>,
    imports: BTreeMap<(Path, String), Vec<Import>>,
}

impl House {
    /// Reads `lib.rs` and `main.rs`, and every file that their modules name; `read` gives a file of `src`.
    pub(crate) fn new(read: &dyn Fn(&str) -> Option<String>) -> House {
        let mut house = House::default();
        for (root, module) in [("lib.rs", Path::new()), ("main.rs", vec!["main.rs".to_owned()])] {
            if let Some(text) = read(root) {
                house.modules.insert(module.clone());
                house.source(read, root.to_owned(), module, &mut Path::new(), &text);
            }
        }
        house
    }

    fn source(
        &mut self,
        read: &dyn Fn(&str) -> Option<String>,
        file: String,
        module: Path,
        folder: &mut Path,
        text: &str,
    ) {
        let mut code = syn::parse_file(text).unwrap_or_else(|error| panic!("src/{file}: {error}"));
        let attributes = std::mem::take(&mut code.attrs);
        self.modules_of(read, &code.items, &module, folder);
        WithoutTests.visit_file_mut(&mut code);
        let mut names = Names::default();
        names.read(&module, code.into_token_stream());
        for (name, imports) in &names.imports {
            self.imports.entry(name.clone()).or_default().extend(imports.clone());
        }
        let allows_unsafe = attributes.iter().any(|attribute| {
            attribute.path().is_ident("allow")
                && matches!(&attribute.meta, Meta::List(list) if list.tokens.to_string().contains("unsafe_code"))
        });
        let documentation = attributes.iter().filter_map(documentation).collect();
        self.sources.push(Source { file, module, names, documentation, allows_unsafe });
    }

    fn modules_of(
        &mut self,
        read: &dyn Fn(&str) -> Option<String>,
        items: &[Item],
        module: &[String],
        folder: &mut Path,
    ) {
        for item in items {
            let Item::Mod(ItemMod { attrs, ident, content, .. }) = item else { continue };
            let name = ident.to_string();
            let child = [module, std::slice::from_ref(&name)].concat();
            if is_test(attrs) {
                self.tests.insert(child);
                continue;
            }
            self.modules.insert(child.clone());
            folder.push(name);
            if let Some((_, items)) = content {
                self.modules_of(read, items, &child, folder);
            } else {
                let path = folder.join("/");
                let (file, text) = [format!("{path}.rs"), format!("{path}/mod.rs")]
                    .into_iter()
                    .find_map(|file| read(&file).map(|text| (file, text)))
                    .unwrap_or_else(|| panic!("module {} has no file", child.join("::")));
                self.source(read, file, child, folder, &text);
            }
            folder.pop();
        }
    }

    /// What `path` leads to: its target; where that is a re-export also what it re-exports, and so on.
    pub(crate) fn targets(&self, path: &Named) -> Vec<Target> {
        let mut found = Vec::new();
        self.chain(path, &mut found);
        if path.glob
            && let Some(Target::Here(module)) = found.last().cloned()
        {
            // Everything that the module re-exports may be meant.
            let imports = self.imports.iter().filter(|((of, _), _)| *of == module).flat_map(|(_, imports)| imports);
            for import in imports.filter(|import| import.public) {
                self.chain(&import.path, &mut found);
            }
        }
        found
    }

    fn chain(&self, path: &Named, found: &mut Vec<Target>) {
        let mut next = Some(self.meaning(&path.module, &path.segments, 0));
        while let Some(target) = next.filter(|target| !found.contains(target)) {
            found.push(target.clone());
            next = self.re_exported(&target);
        }
    }

    /// What stands behind an item of a module, if that only imports it.
    fn re_exported(&self, target: &Target) -> Option<Target> {
        let Target::Here(path) = target else { return None };
        let depth = (0..=path.len()).rev().find(|&depth| self.modules.contains(&path[..depth]))?;
        self.known(&path[..depth], path.get(depth)?, 0).map(|base| base.and(&path[depth + 1..]))
    }

    /// What `segments` mean in `module`.
    fn meaning(&self, module: &[String], segments: &[String], depth: usize) -> Target {
        let first = segments[0].as_str();
        match first {
            "" if segments.get(1).is_some_and(|name| name == "gwm") => Target::Here(segments[2..].to_vec()),
            "" => Target::Elsewhere(segments[1..].to_vec()),
            "crate" | "gwm" => Target::Here(segments[1..].to_vec()),
            "self" | "super" => {
                let relative = segments.iter().take_while(|name| *name == "super" || *name == "self").count();
                let up = segments[..relative].iter().filter(|name| *name == "super").count();
                Target::Here(module[..module.len().saturating_sub(up)].to_vec()).and(&segments[relative..])
            }
            _ => match self.known(module, first, depth) {
                Some(base) => base.and(&segments[1..]),
                None => Target::Elsewhere(segments.to_vec()),
            },
        }
    }

    /// What `name` means in `module`, where that is a module or an import.
    fn known(&self, module: &[String], name: &str, depth: usize) -> Option<Target> {
        self.named(module, name, depth).or_else(|| {
            let globs = self.imports.get(&(module.to_vec(), "*".to_owned()))?;
            globs.iter().filter(|_| depth < DEPTH).find_map(|glob| {
                let Named { module, segments, .. } = &glob.path;
                let local = !matches!(segments[0].as_str(), "" | "crate" | "gwm" | "self" | "super");
                let base = if local {
                    self.named(module, &segments[0], depth + 1)?.and(&segments[1..])
                } else {
                    self.meaning(module, segments, depth + 1)
                };
                let Target::Here(base) = base else { return None };
                self.known(&base, name, depth + 1)
            })
        })
    }

    /// As [`House::known`], without glob imports.
    fn named(&self, module: &[String], name: &str, depth: usize) -> Option<Target> {
        let child = [module, &[name.to_owned()]].concat();
        if self.modules.contains(&child) {
            return Some(Target::Here(child));
        }
        let import = self.imports.get(&(module.to_vec(), name.to_owned()))?.first()?;
        if depth >= DEPTH || import.path.segments[0] == name {
            return Some(Target::Elsewhere(import.path.segments.clone()));
        }
        Some(self.meaning(&import.path.module, &import.path.segments, depth + 1))
    }
}

impl Target {
    fn and(self, rest: &[String]) -> Target {
        match self {
            Target::Here(base) => Target::Here([&base, rest].concat()),
            Target::Elsewhere(base) => Target::Elsewhere([&base, rest].concat()),
        }
    }
}

/// More steps than any chain of re-exports has.
const DEPTH: usize = 16;

fn documentation(attribute: &Attribute) -> Option<String> {
    let Meta::NameValue(meta) = &attribute.meta else { return None };
    let syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) = &meta.value else { return None };
    meta.path.is_ident("doc").then(|| text.value().trim().to_owned())
}

/// Whether code with these attributes exists in tests only.
fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) if attribute.path().is_ident("cfg") => list.tokens.to_string() == "test",
        _ => false,
    })
}

/// Takes away what is compiled for tests only.
struct WithoutTests;

impl VisitMut for WithoutTests {
    fn visit_file_mut(&mut self, file: &mut File) {
        file.items.retain(|item| !is_test(attributes(item)));
        visit_mut::visit_file_mut(self, file);
    }

    fn visit_item_mod_mut(&mut self, module: &mut ItemMod) {
        if let Some((_, items)) = &mut module.content {
            items.retain(|item| !is_test(attributes(item)));
        }
        visit_mut::visit_item_mod_mut(self, module);
    }

    fn visit_item_impl_mut(&mut self, item: &mut ItemImpl) {
        item.items.retain(|item| match item {
            ImplItem::Const(item) => !is_test(&item.attrs),
            ImplItem::Fn(item) => !is_test(&item.attrs),
            ImplItem::Type(item) => !is_test(&item.attrs),
            _ => true,
        });
        visit_mut::visit_item_impl_mut(self, item);
    }

    fn visit_item_trait_mut(&mut self, item: &mut ItemTrait) {
        item.items.retain(|item| !matches!(item, TraitItem::Fn(item) if is_test(&item.attrs)));
        visit_mut::visit_item_trait_mut(self, item);
    }

    fn visit_block_mut(&mut self, block: &mut Block) {
        block.stmts.retain(|statement| match statement {
            Stmt::Item(item) => !is_test(attributes(item)),
            Stmt::Local(local) => !is_test(&local.attrs),
            _ => true,
        });
        visit_mut::visit_block_mut(self, block);
    }
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
