//! Rust files as far as the rules read them: tokens, and the paths that they name.

use std::collections::{BTreeMap, BTreeSet};

/// The tokens of a Rust file. Comments and the content of character literals are left out; a string literal is one token
/// that begins with `"`.
pub(crate) fn tokens(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let at = |index: usize| chars.get(index).copied().unwrap_or('\0');
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut tokens = Vec::new();
    let mut i = 0;
    while i < chars.len() {
        let c = chars[i];
        if c == '/' && at(i + 1) == '/' {
            while i < chars.len() && chars[i] != '\n' {
                i += 1;
            }
        } else if c == '/' && at(i + 1) == '*' {
            let mut depth = 0;
            loop {
                match (at(i), at(i + 1)) {
                    ('/', '*') => (depth, i) = (depth + 1, i + 2),
                    ('*', '/') => (depth, i) = (depth - 1, i + 2),
                    _ => i += 1,
                }
                if depth == 0 || i >= chars.len() {
                    break;
                }
            }
        } else if c == '"' {
            let start = i;
            i += 1;
            while i < chars.len() && chars[i] != '"' {
                i += if chars[i] == '\\' { 2 } else { 1 };
            }
            tokens.push(chars[start..i.min(chars.len())].iter().collect());
            i += 1;
        } else if c == '\'' {
            if at(i + 1) == '\\' {
                i += 3;
                while i < chars.len() && chars[i] != '\'' {
                    i += 1;
                }
                i += 1;
            } else if at(i + 2) == '\'' {
                i += 3;
            } else {
                // A lifetime.
                tokens.push("'".to_owned());
                i += 1;
            }
        } else if is_word(c) {
            let start = i;
            while is_word(at(i)) {
                i += 1;
            }
            let word: String = chars[start..i].iter().collect();
            let hashes = (i..).take_while(|&index| at(index) == '#').count();
            if matches!(&*word, "r" | "br" | "cr") && at(i + hashes) == '"' {
                let start = i + hashes;
                let is_end =
                    |index: usize| at(index) == '"' && (1..=hashes).all(|further| at(index + further) == '#');
                i = (start + 1..chars.len()).find(|&index| is_end(index)).unwrap_or(chars.len());
                tokens.push(chars[start..i].iter().collect());
                i += 1 + hashes;
            } else if word == "r" && hashes == 1 && is_word(at(i + 1)) {
                // A raw identifier is read as a plain one.
                i += 1;
            } else {
                tokens.push(word);
            }
        } else if c == ':' && at(i + 1) == ':' {
            tokens.push("::".to_owned());
            i += 2;
        } else {
            if !c.is_whitespace() {
                tokens.push(c.to_string());
            }
            i += 1;
        }
    }
    tokens
}

/// The text of a Rust file without its comments and literals.
pub(crate) fn code(text: &str) -> String {
    let mut code = String::new();
    for token in tokens(text).iter().filter(|token| !token.starts_with('"')) {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        if code.ends_with(is_word) && token.starts_with(is_word) {
            code.push(' ');
        }
        code.push_str(token);
    }
    code
}

/// What a file names outside of its tests.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// Paths from the root of the crate. An empty one is the root itself.
    pub(crate) paths: BTreeSet<Vec<String>>,
    /// What the file imports from modules of its own: the name, and the first segment of its path.
    pub(crate) imports: BTreeMap<String, String>,
    /// Paths that begin with the name of another crate, or with anything else that is in scope.
    pub(crate) relative: BTreeSet<Vec<String>>,
    /// The files of modules that are there for tests only, as the file says them: `tests.rs`.
    pub(crate) test_files: BTreeSet<String>,
}

/// Reads a file, which is this module of the crate.
pub(crate) fn names(module: &[&str], text: &str) -> Names {
    let mut names = Names::default();
    let tokens = without_tests(&tokens(text), &mut names.test_files);
    let token = |index: usize| tokens.get(index).map_or("", String::as_str);
    let before = |index: usize, by: usize| token(index.wrapping_sub(by));
    let mut module: Vec<String> = module.iter().map(|&segment| segment.to_owned()).collect();
    // At which depth of braces modules within the file end.
    let mut ends = Vec::new();
    let mut depth = 0;
    let mut i = 0;
    while i < tokens.len() {
        match token(i) {
            "{" => depth += 1,
            "}" => {
                depth -= 1;
                if ends.last() == Some(&depth) {
                    ends.pop();
                    module.pop();
                }
            }
            "mod" if token(i + 2) == "{" => {
                ends.push(depth);
                module.push(token(i + 1).to_owned());
            }
            "use" if token(i + 1) != "<" => {
                let end = (i..tokens.len()).find(|&index| token(index) == ";").unwrap_or(tokens.len());
                for (path, alias) in tree(&tokens[i + 1..end]) {
                    names.add(&module, path, Some(alias));
                }
                i = end;
            }
            "extern" if token(i + 1) == "crate" && token(i + 2) == "self" => {
                names.paths.insert(Vec::new());
                i += 2;
            }
            // What may see an item is no use of anything.
            "crate" | "super" | "self" if matches!(before(i, 1), "(" | "in") && token(i + 1) == ")" => {}
            first
                if is_name(first)
                    && token(i + 1) == "::"
                    && (before(i, 1) != "::" || !(is_name(before(i, 2)) || before(i, 2) == ">")) =>
            {
                let mut path = vec![first.to_owned()];
                while token(i + 1) == "::" && is_name(token(i + 2)) {
                    path.push(token(i + 2).to_owned());
                    i += 2;
                }
                names.add(&module, path, None);
            }
            "crate" => drop(names.paths.insert(Vec::new())),
            _ => {}
        }
        i += 1;
    }
    for line in text.lines().map(str::trim_start) {
        if line.starts_with("///") || line.starts_with("//!") {
            for (at, _) in line.match_indices("crate::") {
                let path =
                    line[at + "crate::".len()..].split(|c: char| !(c.is_alphanumeric() || "_:".contains(c)));
                let path = path.take(1).flat_map(|path| path.split("::")).filter(|name| !name.is_empty());
                names.paths.insert(path.map(str::to_owned).collect());
            }
        }
    }
    names
}

impl Names {
    /// Adds a path that the module has, and as what it is imported.
    fn add(&mut self, module: &[String], path: Vec<String>, alias: Option<String>) {
        let Some(first) = path.first().cloned() else { return };
        if !matches!(first.as_str(), "crate" | "self" | "super") {
            if let Some(alias) = alias {
                self.imports.insert(alias, first);
            }
            self.relative.insert(path);
            return;
        }
        let mut from_root = module.to_vec();
        for segment in path {
            match segment.as_str() {
                "crate" => from_root.clear(),
                "self" => {}
                "super" => drop(from_root.pop()),
                _ => from_root.push(segment),
            }
        }
        self.paths.insert(from_root);
    }
}

/// The paths of a `use`, each with the name that it gets. A path that ends in `self` is without it.
fn tree(tokens: &[String]) -> Vec<(Vec<String>, String)> {
    let mut paths = Vec::new();
    let mut prefix = Vec::new();
    let mut i = 0;
    while let Some(token) = tokens.get(i) {
        match token.as_str() {
            "{" => {
                for part in parts(&tokens[i + 1..]) {
                    for (path, alias) in tree(part) {
                        let is_self = path == ["self"];
                        let path: Vec<_> =
                            prefix.iter().cloned().chain(path.into_iter().filter(|_| !is_self)).collect();
                        let alias = if is_self && alias == "self" {
                            path.last().cloned().unwrap_or_default()
                        } else {
                            alias
                        };
                        paths.push((path, alias));
                    }
                }
                return paths;
            }
            "as" => {
                paths.push((prefix, tokens.get(i + 1).cloned().unwrap_or_default()));
                return paths;
            }
            "::" | "$" => {}
            name => prefix.push(name.to_owned()),
        }
        i += 1;
    }
    if let Some(last) = prefix.last().cloned() {
        paths.push((prefix, last));
    }
    paths
}

/// What stands between commas, up to the brace that closes the group.
fn parts(tokens: &[String]) -> Vec<&[String]> {
    let mut parts = Vec::new();
    let (mut depth, mut start) = (0, 0);
    for (i, token) in tokens.iter().enumerate() {
        match token.as_str() {
            "{" => depth += 1,
            "}" if depth > 0 => depth -= 1,
            "}" => {
                parts.push(&tokens[start..i]);
                break;
            }
            "," if depth == 0 => {
                parts.push(&tokens[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts
}

/// The tokens without what is compiled for tests only; the files of such modules go to `files`.
fn without_tests(tokens: &[String], files: &mut BTreeSet<String>) -> Vec<String> {
    let mut rest = Vec::new();
    let mut i = 0;
    while i < tokens.len() {
        let starts =
            |with: &[&str]| tokens[i..].iter().zip(with).filter(|(a, b)| a == b).count() == with.len();
        if starts(&["#", "[", "cfg", "(", "test", ")"]) || starts(&["#", "[", "cfg", "(", "all", "(", "test"])
        {
            let end = item_end(tokens, i);
            let item = &tokens[i..end];
            if let Some(at) = item.iter().position(|token| token == "mod")
                && item.last().is_some_and(|last| last == ";")
            {
                let path = item.iter().find_map(|token| token.strip_prefix('"'));
                files.insert(path.map_or_else(|| format!("{}.rs", item[at + 1]), str::to_owned));
            }
            i = end;
        } else {
            rest.push(tokens[i].clone());
            i += 1;
        }
    }
    rest
}

/// Behind which token ends the item, field or statement whose first attribute stands here.
fn item_end(tokens: &[String], mut i: usize) -> usize {
    const ITEMS: [&str; 13] = [
        "pub", "use", "mod", "fn", "impl", "struct", "enum", "const", "static", "type", "trait", "async",
        "unsafe",
    ];
    while tokens.get(i).is_some_and(|token| token == "#") {
        i = behind_group(tokens, i + 1);
    }
    let is_item = tokens.get(i).is_some_and(|token| ITEMS.contains(&&**token));
    while let Some(token) = tokens.get(i) {
        match token.as_str() {
            "{" => return behind_group(tokens, i),
            "(" | "[" => i = behind_group(tokens, i),
            ";" => return i + 1,
            "," if !is_item => return i + 1,
            "}" => return i,
            _ => i += 1,
        }
    }
    i
}

/// Behind the bracket that closes the one here.
fn behind_group(tokens: &[String], start: usize) -> usize {
    let mut depth = 0;
    for (i, token) in tokens.iter().enumerate().skip(start) {
        match token.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return i + 1;
        }
    }
    tokens.len()
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}
