//! A template's source as the engine takes it: what Jinja and transformers' extension of it do that
//! the engine does not, and what bounds the engine.
//!
//! The source is read by the engine's own tokenizer, so that no tag is taken for something else
//! than the engine takes it for.

use std::ops::Range;

use minijinja::machinery::{Token, tokenize};
use minijinja::syntax::SyntaxConfig;

use super::limits::{Blocks, Chain, LONGEST_SOURCE};

/// What the names that are written into a source begin with.
const OWN: &str = "bft_";

/// Variables that hold the marks around what a `{% generation %}` block prints, or nothing.
pub(super) const MARKS: [&str; 2] = ["bft_generation_begins", "bft_generation_ends"];

/// The function around what a `for` goes over: Python does not go over None, the engine does.
pub(super) const EACH: &str = "bft_each";

/// The functions around a value that a name is given, and one that an attribute is given.
pub(super) const KEEP: &str = "bft_keep";
pub(super) const KEEP_IN: &str = "bft_keep_in";

/// The source to compile, and whether it has `{% generation %}` blocks. No line moves.
///
/// Line ends become `\n`, as Jinja makes them, in text and strings alike. A `{% generation %}`
/// block becomes a plain block with a variable at either end: white space is cut by the first tag
/// on the left side and by the last one on the right side, as the one tag in their place did;
/// `with` keeps assignments inside, as there. What `for` goes over is passed through [`EACH`], and
/// every value that a name is given through [`KEEP`]: in `set` where it stands, elsewhere (the
/// parameters of macros, `with`, loops that call themselves) by a `set` behind the tag.
///
/// The error is a sentence without its subject, the template.
pub(super) fn prepare(source: &str, syntax: &SyntaxConfig) -> Result<(String, bool), String> {
    if source.len() > LONGEST_SOURCE {
        return Err(format!("has {} bytes, more than the {LONGEST_SOURCE} that one may have", source.len()));
    }
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut edits = Vec::new();
    let mut marked = false;
    let mut blocks = Blocks::default();
    let mut tag: Option<Tag> = None;
    // Where the tokenizer fails the engine does, too, and says why.
    for (token, span) in tokenize(&source, false, syntax.clone()).map_while(Result::ok) {
        let place = span.start_offset as usize..span.end_offset as usize;
        let at_line = |problem: String| format!("{problem} (line {} of the template)", span.start_line);
        match (&mut tag, token) {
            (_, start @ (Token::VariableStart | Token::BlockStart)) => {
                tag = Some(Tag::new(place, matches!(start, Token::BlockStart)));
            }
            (Some(open), Token::VariableEnd | Token::BlockEnd) => {
                if let Some(word) = open.word() {
                    let is_set = open.assignment().is_some();
                    blocks.take(word, is_set).map_err(at_line)?;
                    marked |= word == "generation";
                    open.edit(&source, place, &mut edits);
                }
                tag = None;
            }
            (Some(open), token) => open.push(token, place).map_err(at_line)?,
            (None, _) => {}
        }
    }
    let mut out = String::with_capacity(source.len() + 64);
    let mut done = 0;
    for (place, text) in edits {
        out.push_str(&source[done..place.start]);
        out.push_str(&text);
        done = place.end;
    }
    out.push_str(&source[done..]);
    Ok((out, marked))
}

/// A tag that has begun, with its tokens: each with the brackets that are open before it.
struct Tag<'s> {
    start: Range<usize>,
    is_block: bool,
    tokens: Vec<(Token<'s>, Range<usize>, usize)>,
    chain: Chain,
}

impl<'s> Tag<'s> {
    fn new(start: Range<usize>, is_block: bool) -> Self {
        Self { start, is_block, tokens: Vec::new(), chain: Chain::new() }
    }

    fn push(&mut self, token: Token<'s>, place: Range<usize>) -> Result<(), String> {
        if let Token::Ident(name) = token
            && name.starts_with(OWN)
        {
            return Err(format!("uses the name {name}, but those that begin with {OWN} are kept for bft"));
        }
        let depth = self.chain.depth();
        self.chain.take(&token)?;
        self.tokens.push((token, place, depth));
        Ok(())
    }

    /// What a block's tag begins with.
    fn word(&self) -> Option<&'s str> {
        match self.tokens.first() {
            Some((Token::Ident(word), ..)) if self.is_block => Some(word),
            _ => None,
        }
    }

    /// The first token behind `from` that is one of these, outside brackets.
    fn find(&self, from: usize, wanted: impl Fn(&Token) -> bool) -> Option<usize> {
        (from..self.tokens.len()).find(|at| self.tokens[*at].2 == 0 && wanted(&self.tokens[*at].0))
    }

    fn assignment(&self) -> Option<usize> {
        self.find(0, |token| matches!(token, Token::Assign))
    }

    /// Adds what is to be written in place of parts of the source; `end` is where the tag's end
    /// stands.
    fn edit(&self, source: &str, end: Range<usize>, edits: &mut Vec<(Range<usize>, String)>) {
        let marks = [&source[self.start.clone()][2..], &source[end.start..end.end - 2]];
        let whole = self.start.start..end.end;
        match self.word() {
            Some("generation") => edits
                .push((whole, format!("{{%{} if true %}}{{{{ {} }}}}{{% with {}%}}", marks[0], MARKS[0], marks[1]))),
            Some("endgeneration") => edits
                .push((whole, format!("{{%{} endwith %}}{{{{ {} }}}}{{% endif {}%}}", marks[0], MARKS[1], marks[1]))),
            Some("for") => {
                let Some(after) = self.find(0, |token| matches!(token, Token::Ident("in"))) else { return };
                let to = self.find(after, |token| matches!(token, Token::Ident("if" | "recursive")));
                self.wrap(EACH, after + 1..to.unwrap_or(self.tokens.len()), edits);
                if self.find(after, |token| matches!(token, Token::Ident("recursive"))).is_some() {
                    self.keep(self.names(1..after), end.start, edits);
                }
            }
            Some("set") => {
                let Some(at) = self.assignment() else { return };
                let is_attribute = self.tokens[..at].iter().any(|(token, ..)| matches!(token, Token::Dot));
                self.wrap(if is_attribute { KEEP_IN } else { KEEP }, at + 1..self.tokens.len(), edits);
            }
            Some("with") => self.keep(self.with_names(), end.start, edits),
            Some("macro") => self.keep(self.parameters(2), end.start, edits),
            Some("call") => self.keep(self.parameters(1), end.start, edits),
            _ => {}
        }
    }

    /// Puts a function around an expression.
    fn wrap(&self, function: &str, expression: Range<usize>, edits: &mut Vec<(Range<usize>, String)>) {
        if let [(_, first, _), ..] = &self.tokens[expression.clone()]
            && let [.., (_, last, _)] = &self.tokens[expression]
        {
            edits.push((first.start..first.start, format!("{function}((")));
            edits.push((last.end..last.end, "))".to_owned()));
        }
    }

    /// Has names keep their values from right behind the tag on, whose end takes the last of it.
    fn keep(&self, names: Vec<&str>, end: usize, edits: &mut Vec<(Range<usize>, String)>) {
        let kept = names.iter().map(|name| format!("%}}{{% set {name} = {KEEP}({name}) ")).collect();
        edits.push((end..end, kept));
    }

    fn names(&self, tokens: Range<usize>) -> Vec<&'s str> {
        let name = |(token, ..): &(Token<'s>, _, _)| match token {
            Token::Ident(name) => Some(*name),
            _ => None,
        };
        self.tokens[tokens].iter().filter_map(name).collect()
    }

    /// What stands before each `=` of a `with`.
    fn with_names(&self) -> Vec<&'s str> {
        let mut names = Vec::new();
        let mut from = 1;
        while let Some(at) = self.find(from, |token| matches!(token, Token::Assign)) {
            names.extend(self.names(from..at));
            from = self.find(at, |token| matches!(token, Token::Comma)).map_or(self.tokens.len(), |comma| comma + 1);
        }
        names
    }

    /// The parameters in the bracket that opens at a token, if one does.
    fn parameters(&self, open: usize) -> Vec<&'s str> {
        let mut names = Vec::new();
        let Some((Token::ParenOpen, ..)) = self.tokens.get(open) else { return names };
        for pair in self.tokens[open..].windows(2) {
            match (&pair[0].0, &pair[1]) {
                (Token::ParenOpen | Token::Comma, (Token::Ident(name), _, 1)) => names.push(*name),
                (_, (Token::ParenClose, _, 1)) => break,
                _ => {}
            }
        }
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared(source: &str) -> (String, bool) {
        prepare(source, &super::super::syntax().unwrap()).unwrap()
    }

    #[test]
    fn only_tags_of_blocks_are_changed() {
        let same = [
            "it's {{ '{% generation %}' }} {# {% generation %} {% for x in y %} #} isn't",
            "{% raw %}{% generation %}{{ '{#' }}{% for x in y %}{% endraw %}",
            "{{ {'a': {'b': '}}'}} }} {% if '%} {% generation %}' %}{% set x %}{% endset %}",
            "{% for %} {% for x of y %} {% forx in y %} {{ unclosed {% generation %}",
            "{% macro f() %}{% endmacro %}{% call f(x) %}{% endcall %}",
        ];
        for source in same {
            assert_eq!(prepared(source), (source.to_owned(), false));
        }
        assert_eq!(prepared("a\r\nb\rc").0, "a\nb\nc");
    }

    #[test]
    fn loops_go_through_the_check() {
        let loops = [
            ("{% for x in y %}", "{% for x in bft_each((y)) %}"),
            ("{%- for a, b in m.items() if a in b -%}", "{%- for a, b in bft_each((m.items())) if a in b -%}"),
            ("{%for x in\n 1, 2%}", "{%for x in\n bft_each((1, 2))%}"),
            ("{% for index in ' in ' if iffy %}", "{% for index in bft_each((' in ')) if iffy %}"),
            (
                "{% for x in (y if z else []) recursive %}",
                "{% for x in bft_each(((y if z else []))) recursive %}{% set x = bft_keep(x) %}",
            ),
        ];
        for (source, expected) in loops {
            assert_eq!(prepared(source), (expected.to_owned(), false));
        }
    }

    #[test]
    fn whatever_a_name_is_given_is_kept() {
        let named = [
            ("{% set x = 1 -%}", "{% set x = bft_keep((1)) -%}"),
            ("{%+ set a, b = (x, y) if z %}", "{%+ set a, b = bft_keep(((x, y) if z)) %}"),
            ("{% set n.x = n.x == '=' %}", "{% set n.x = bft_keep_in((n.x == '=')) %}"),
            (
                "{%- with a = f(b=1, c=[d, e]), g = h -%}",
                "{%- with a = f(b=1, c=[d, e]), g = h %}{% set a = bft_keep(a) %}{% set g = bft_keep(g) -%}",
            ),
            (
                "{% macro f(a, b=[c, d]) -%}",
                "{% macro f(a, b=[c, d]) %}{% set a = bft_keep(a) %}{% set b = bft_keep(b) -%}",
            ),
            ("{% call(a) f(b, c) %}", "{% call(a) f(b, c) %}{% set a = bft_keep(a) %}"),
        ];
        for (source, expected) in named {
            assert_eq!(prepared(source), (expected.to_owned(), false));
        }
    }

    #[test]
    fn what_would_be_too_deep_to_read_is_refused() {
        let refused = |source: &str, words: &str| {
            let problem = prepare(source, &super::super::syntax().unwrap()).unwrap_err();
            assert!(problem.contains(words), "{problem}");
        };
        let chains = [
            "{{ 1".to_owned() + &" + 1".repeat(300) + " }}",
            "{{ ".to_owned() + &"-".repeat(600) + "1 }}",
            "{{ x".to_owned() + &" | f".repeat(300) + " }}",
            "{{ x".to_owned() + &".y".repeat(300) + " }}",
            "{{ x".to_owned() + &"[0]".repeat(600) + " }}",
            "{{ x".to_owned() + &" and y".repeat(300) + " }}",
            "{{ x".to_owned() + &" if y else z".repeat(60) + " }}",
            "{{ ".to_owned() + &"[0, ".repeat(100) + "0" + &"]".repeat(100) + " }}",
        ];
        for chain in &chains {
            refused(chain, "inside one another (line 1");
        }
        let wide = format!("{{{{ [{}] }}}}{{{{ {} }}}}", "[1 + 2, 'x'], ".repeat(900), " 'x' ~".repeat(60) + " 'y'");
        assert_eq!(prepared(&wide).0, wide);
        refused(&("{% if x %}".to_owned() + &"{% elif y %}".repeat(200)), "blocks and elifs");
        refused(&"{% for x in y %}".repeat(200), "blocks and elifs");
        let after =
            "{% if x %}{% elif y %}{% endif %}{% for x in y %}{% endfor %}{% set x = 1 %}{% set y %}{% endset %}";
        assert!(!prepared(&after.repeat(200)).1);
        refused(&"{% macro f() %}{% endmacro %}".repeat(300), "macros");
        refused("\n{{ x) }}", "not open (line 2");
        refused("{% set bft_keep = 1 %}", "the name bft_keep");
        refused(&" ".repeat(LONGEST_SOURCE + 1), "262145 bytes");
    }

    #[test]
    fn marks_keep_the_white_space_of_their_tag() {
        let (source, marked) = prepared("{%- generation -%}x{%+ endgeneration %}");
        assert!(marked);
        let begins = "{%- if true %}{{ bft_generation_begins }}{% with -%}";
        let ends = "{%+ endwith %}{{ bft_generation_ends }}{% endif %}";
        assert_eq!(source, format!("{begins}x{ends}"));
    }
}
