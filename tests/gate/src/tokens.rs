//! What a Rust text is made of: lines of code, lines of tests, words of unsafe.

use std::collections::BTreeSet;

use proc_macro2::{Delimiter, Group, Span, TokenStream, TokenTree};

/// The measure of one Rust file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Measure {
    /// Lines that hold a token outside tests; neither comments, documentation nor blank lines.
    pub(crate) code: usize,
    /// Occurrences of the keyword, tests included.
    pub(crate) unsafes: usize,
    /// Modules declared for tests only, which have files of their own.
    pub(crate) test_modules: Vec<Elsewhere>,
    /// The file says itself that it is for tests only.
    pub(crate) all_tests: bool,
}

/// Where the text of a module is that has none here.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Elsewhere {
    /// In the file or folder of this name.
    Named(String),
    /// Where `#[path = ".."]` says, beside the file that declares it.
    At(String),
}

impl Measure {
    /// Reads a whole file.
    ///
    /// # Errors
    /// The text is not made of Rust tokens.
    pub(crate) fn of(text: &str) -> Result<Self, proc_macro2::LexError> {
        let stream: TokenStream = text.parse()?;
        let mut measure = Self { unsafes: unsafes(stream.clone()), ..Self::default() };
        let mut lines = BTreeSet::new();
        measure.walk(stream, &mut lines);
        measure.code = if measure.all_tests { 0 } else { lines.len() };
        Ok(measure)
    }

    fn walk(&mut self, stream: TokenStream, lines: &mut BTreeSet<usize>) {
        let tokens: Vec<TokenTree> = stream.into_iter().collect();
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            let (attributes, after) = attributes(&tokens, at);
            if let Some(inner) = attributes.iter().find_map(|(group, inner)| for_tests_only(group).then_some(*inner)) {
                self.all_tests |= inner;
                at = self.skip_item(&tokens, after, attributes.iter().find_map(|(group, _)| path(group)));
            } else if attributes.is_empty() {
                self.count(token, lines);
                at += 1;
            } else {
                for (group, _) in attributes.into_iter().filter(|(group, _)| !is(group, "doc")) {
                    lines.extend(line(group.span())..=group.span().end().line);
                }
                at = after;
            }
        }
    }

    fn count(&mut self, token: &TokenTree, lines: &mut BTreeSet<usize>) {
        if let TokenTree::Group(group) = token {
            // A group without delimiters has no lines of its own.
            if group.delimiter() != Delimiter::None {
                lines.extend([line(group.span_open()), line(group.span_close())]);
            }
            self.walk(group.stream(), lines);
        } else {
            lines.extend(line(token.span())..=token.span().end().line);
        }
    }

    /// Where the item that begins at `at` ends; notes a module that is elsewhere.
    fn skip_item(&mut self, tokens: &[TokenTree], mut at: usize, path: Option<String>) -> usize {
        let mut item = false;
        while let Some(token) = tokens.get(at) {
            at += 1;
            match token {
                TokenTree::Ident(word) if word == "mod" => {
                    item = true;
                    if let [TokenTree::Ident(name), TokenTree::Punct(end), ..] = tokens.get(at..).unwrap_or_default()
                        && end.as_char() == ';'
                    {
                        self.test_modules.push(path.map_or_else(|| Elsewhere::Named(name.to_string()), Elsewhere::At));
                        return at + 2;
                    }
                }
                TokenTree::Ident(word) => item |= ITEMS.iter().any(|keyword| word == keyword),
                TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => {
                    let semicolon = tokens.get(at).is_some_and(|next| punctuation(next, ';'));
                    return at + usize::from(semicolon);
                }
                // A field, an arm or an argument ends with a comma; in an item, commas part parameters.
                token if punctuation(token, ';') || (!item && punctuation(token, ',')) => return at,
                _ => {}
            }
        }
        at
    }
}

/// The words that make what follows an attribute an item.
const ITEMS: [&str; 10] = ["fn", "impl", "use", "struct", "enum", "trait", "const", "static", "type", "macro_rules"];

/// All attributes that begin at `at`, each with whether it is an inner one, and where they end.
fn attributes(tokens: &[TokenTree], mut at: usize) -> (Vec<(&Group, bool)>, usize) {
    let mut found = Vec::new();
    while let Some((group, inner, after)) = attribute(tokens, at) {
        found.push((group, inner));
        at = after;
    }
    (found, at)
}

/// What `path = ".."` says.
fn path(attribute: &Group) -> Option<String> {
    let said = attribute.stream().into_iter().last().filter(|_| is(attribute, "path"))?.to_string();
    Some(said.trim_matches('"').to_owned())
}

/// The attribute that begins at `at`: its brackets, whether it is an inner one, and where it ends.
fn attribute(tokens: &[TokenTree], at: usize) -> Option<(&Group, bool, usize)> {
    if !tokens.get(at).is_some_and(|token| punctuation(token, '#')) {
        return None;
    }
    let inner = tokens.get(at + 1).is_some_and(|token| punctuation(token, '!'));
    let brackets = at + 1 + usize::from(inner);
    match tokens.get(brackets)? {
        TokenTree::Group(group) if group.delimiter() == Delimiter::Bracket => Some((group, inner, brackets + 1)),
        _ => None,
    }
}

/// Whether the group begins with this word.
fn is(group: &Group, word: &str) -> bool {
    matches!(group.stream().into_iter().next(), Some(TokenTree::Ident(first)) if first == word)
}

/// `cfg(test)`, or `cfg(all(.., test, ..))`: what holds only in tests. `any` and `not` prove nothing.
fn for_tests_only(attribute: &Group) -> bool {
    is(attribute, "cfg") && attribute.stream().into_iter().any(|token| asks_for_test(&token))
}

fn asks_for_test(predicate: &TokenTree) -> bool {
    let TokenTree::Group(group) = predicate else { return false };
    let tokens: Vec<TokenTree> = group.stream().into_iter().collect();
    tokens.iter().enumerate().any(|(at, token)| match token {
        TokenTree::Ident(word) if word == "test" => true,
        TokenTree::Ident(word) if word == "all" => tokens.get(at + 1).is_some_and(asks_for_test),
        _ => false,
    })
}

fn unsafes(stream: TokenStream) -> usize {
    let here = |token| match token {
        TokenTree::Group(group) => unsafes(group.stream()),
        TokenTree::Ident(word) => usize::from(word == "unsafe"),
        _ => 0,
    };
    stream.into_iter().map(here).sum()
}

fn punctuation(token: &TokenTree, sign: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == sign)
}

fn line(span: Span) -> usize {
    span.start().line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> usize {
        Measure::of(text).expect("Rust").code
    }

    #[test]
    fn comments_documentation_and_blank_lines_are_not_code() {
        assert_eq!(code("//! Doc.\n\n/// Doc.\n#[doc = \"x\"]\nfn f() {\n    // why\n    g();\n}\n"), 3);
    }

    #[test]
    fn a_text_over_three_lines_is_three_lines() {
        assert_eq!(code("const A: &str = \"1\n2\n3\";"), 3);
    }

    #[test]
    fn tests_are_not_code_and_what_follows_them_is() {
        assert_eq!(code("#[cfg(test)]\n#[expect(x)]\nmod tests {\n    fn f() {}\n}\nfn g() {}\n"), 1);
        assert_eq!(code("#[cfg(test)]\nfn f<A, B>(a: A, b: B)\nwhere A: X, B: Y {\n}\nfn g() {}\n"), 1);
        assert_eq!(code("#[cfg(test)]\nuse a::{b,\nc};\nfn g() {}\n"), 1);
        assert_eq!(code("struct A {\n#[cfg(test)]\na: B,\nc: D,\n}\n"), 3);
        assert_eq!(code("#[cfg(all(loom, test))]\nmod l {\n}\nfn g() {}\n"), 1);
    }

    #[test]
    fn what_may_run_outside_tests_is_code() {
        assert_eq!(code("#[cfg(not(test))]\nfn f() {}\n"), 2);
        assert_eq!(code("#[cfg(any(test, fuzzing))]\nfn f() {}\n"), 2);
        assert_eq!(code("#[cfg_attr(test, derive(Debug))]\nstruct A;\n"), 2);
    }

    #[test]
    fn test_modules_elsewhere_are_named() {
        let text = "#[cfg(test)]\nmod cases;\n#[path = \"c.rs\"]\n#[cfg(all(test, loom))]\nmod check;\nmod real;\n";
        let measure = Measure::of(text).expect("Rust");
        assert_eq!(measure.code, 1);
        assert_eq!(measure.test_modules, [Elsewhere::Named("cases".into()), Elsewhere::At("c.rs".into())]);
    }

    #[test]
    fn a_file_for_tests_has_no_code() {
        let measure = Measure::of("#![cfg(test)]\nfn f() {}\nfn g() {}\n").expect("Rust");
        assert!(measure.all_tests);
        assert_eq!(measure.code, 0);
    }

    #[test]
    fn unsafe_counts_as_a_word_everywhere_but_in_texts() {
        let text = "//! unsafe\n#![deny(unsafe_code)]\nunsafe fn f() { m!(unsafe { \"unsafe\" }) }\n\
                    #[cfg(test)] mod t { fn g() { unsafe {} } }";
        assert_eq!(Measure::of(text).expect("Rust").unsafes, 3);
    }
}
