//! What a template may cost. It is a program that came with a model, from whoever made that.
//!
//! The engine counts instructions, bytes and items, and stops a template that has used up what it
//! was given. Three things it does not bound, and they are bounded here: how deep it recurses while
//! it reads a source ([`Chain`], [`Blocks`]), how deep values nest ([`kept`], through which
//! [`super::source`] has every value that a name is given), and how long a rendering takes
//! ([`bounded`]).

use std::sync::atomic::AtomicBool;
#[cfg(not(target_arch = "wasm32"))]
use std::sync::atomic::Ordering;

use minijinja::machinery::Token;
use minijinja::value::{Tuple, Value, ValueKind};
use minijinja::{Error, ErrorKind, State};

/// Instructions a template may run; a conversation takes some hundred for each turn. One also pays
/// for 64 bytes that a template makes or goes over.
pub(super) const FUEL: u64 = 1_000_000;
const BYTES_OF_FUEL: usize = 64;

/// Bytes of a template's source. The longest of 226 public ones has 20,000.
pub(super) const LONGEST_SOURCE: usize = 256 << 10;

/// Frames of the engine: a macro that calls itself takes some five at a time.
pub(super) const RECURSION: usize = 200;

/// How deep a value may nest, and how many bytes the text before its last part may take.
pub(super) const DEEPEST_VALUE: usize = 256;
pub(super) const LONGEST_TEXT: usize = 16 << 20;

/// Tokens of an expression that may each lie inside the one before; public templates come to 77.
const LONGEST_CHAIN: usize = 500;
/// What a bracket counts for: the engine's reader calls itself through a dozen functions for each.
const BRACKET: usize = 8;
/// Blocks, and `elif`s, that lie inside one another; public templates come to 13.
const DEEPEST_BLOCKS: usize = 100;
/// Macros, each of which holds on to those before it.
const MOST_MACROS: usize = 200;

/// Bytes that the engine takes for a slot of a list.
pub(super) const SLOT: usize = 32;

/// How long a rendering may take; one of a long conversation takes some milliseconds.
#[cfg(not(target_arch = "wasm32"))]
const LONGEST_TIME: std::time::Duration = std::time::Duration::from_millis(if cfg!(test) { 500 } else { 10_000 });

/// More than values and calls as deep as they may be take.
#[cfg(not(target_arch = "wasm32"))]
const STACK: usize = 64 << 20;

pub(super) fn failed(problem: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, problem.into())
}

/// Tokens of the expressions of one tag that may lie inside one another: those of every bracket
/// that is open, since the last comma in it.
pub(super) struct Chain {
    open: Vec<usize>,
}

impl Chain {
    pub fn new() -> Self {
        Self { open: vec![0] }
    }

    /// Brackets that are open.
    pub fn depth(&self) -> usize {
        self.open.len() - 1
    }

    pub fn take(&mut self, token: &Token) -> Result<(), String> {
        match token {
            Token::ParenClose | Token::BracketClose | Token::BraceClose => {
                self.open.pop();
                if self.open.is_empty() {
                    return Err("closes a bracket that is not open".to_owned());
                }
            }
            Token::Comma => *self.last() = if self.depth() == 0 { 0 } else { BRACKET },
            Token::ParenOpen | Token::BracketOpen | Token::BraceOpen => {
                *self.last() += 1;
                self.open.push(BRACKET);
            }
            Token::Ident("else") => *self.last() += BRACKET,
            _ => *self.last() += 1,
        }
        if self.open.iter().sum::<usize>() > LONGEST_CHAIN {
            return Err(format!("has an expression of more than {LONGEST_CHAIN} parts that lie inside one another"));
        }
        Ok(())
    }

    fn last(&mut self) -> &mut usize {
        // Closing the outermost is refused, so there always is one.
        let last = self.open.len() - 1;
        &mut self.open[last]
    }
}

/// Blocks that are open, each with its `elif`s.
#[derive(Default)]
pub(super) struct Blocks {
    open: Vec<usize>,
    macros: usize,
}

impl Blocks {
    /// Takes a tag by its first word; `assigns` says that it has the value of a `set` in it.
    pub fn take(&mut self, word: &str, assigns: bool) -> Result<(), String> {
        match word {
            "set" if assigns => {}
            "if" | "for" | "with" | "filter" | "block" | "call" | "macro" | "autoescape" | "generation" | "set" => {
                self.open.push(1);
            }
            "elif" => {
                if let Some(last) = self.open.last_mut() {
                    *last += 1;
                }
            }
            _ if word.starts_with("end") => {
                self.open.pop();
            }
            _ => {}
        }
        self.macros += usize::from(matches!(word, "macro" | "call"));
        if self.open.iter().sum::<usize>() > DEEPEST_BLOCKS {
            return Err(format!("has more than {DEEPEST_BLOCKS} blocks and elifs inside one another"));
        }
        if self.macros > MOST_MACROS {
            return Err(format!("has more than {MOST_MACROS} macros"));
        }
        Ok(())
    }
}

/// Pays for bytes that are about to be made.
pub(super) struct Meter<'s, 'a, 'b> {
    state: &'s State<'a, 'b>,
    unpaid: usize,
}

impl<'s, 'a, 'b> Meter<'s, 'a, 'b> {
    pub fn new(state: &'s State<'a, 'b>) -> Self {
        Self { state, unpaid: 0 }
    }

    pub fn pay(&mut self, bytes: usize) -> Result<(), Error> {
        self.unpaid = self.unpaid.saturating_add(bytes);
        let fuel = self.unpaid / BYTES_OF_FUEL;
        self.unpaid %= BYTES_OF_FUEL;
        if fuel == 0 { Ok(()) } else { self.state.consume_fuel(fuel as u64) }
    }
}

/// Whether a value has been made by the engine to be gone over later, so that it holds others
/// without being as large as they are: a slice, a sum of lists, `items()`.
fn is_lazy(value: &Value) -> bool {
    match value.kind() {
        ValueKind::Iterable => true,
        ValueKind::Seq => {
            value.downcast_object_ref::<Vec<Value>>().is_none() && value.downcast_object_ref::<Tuple>().is_none()
        }
        _ => false,
    }
}

/// Whether a value is one of the engine's own types, which are not public.
fn is(value: &Value, name: &str) -> bool {
    value.as_object().is_some_and(|object| object.type_name().rsplit("::").next() == Some(name))
}

/// What may hold more than can be seen of it.
const OBJECT: &str = "a macro or another object inside a namespace";

/// Goes through all that a value holds: whether any of it is lazy.
fn holds_lazy(value: &Value, depth: usize, alone: bool, meter: &mut Meter) -> Result<bool, Error> {
    if depth > DEEPEST_VALUE {
        return Err(failed(format!("a value nested deeper than {DEEPEST_VALUE} levels")));
    }
    meter.pay(SLOT / 4)?;
    let mut lazy = is_lazy(value);
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => {
            for item in value.try_iter()? {
                lazy |= holds_lazy(&item, depth + 1, alone, meter)?;
            }
        }
        ValueKind::Map if alone && is(value, "Namespace") => {
            return Err(failed("a namespace inside a namespace"));
        }
        ValueKind::Map if alone && ["Macro", "Loop", "Module"].iter().any(|name| is(value, name)) => {
            return Err(failed(OBJECT));
        }
        ValueKind::Map => {
            for key in value.try_iter()? {
                lazy |= holds_lazy(&key, depth + 1, alone, meter)?;
                lazy |= holds_lazy(&value.get_item(&key)?, depth + 1, alone, meter)?;
            }
        }
        ValueKind::Plain if alone => return Err(failed(OBJECT)),
        _ => {}
    }
    Ok(lazy)
}

/// The same value without anything lazy in it.
fn written_out(value: &Value, meter: &mut Meter) -> Result<Value, Error> {
    meter.pay(SLOT)?;
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => {
            let mut items = Vec::new();
            for item in value.try_iter()? {
                items.push(written_out(&item, meter)?);
            }
            let is_tuple = value.downcast_object_ref::<Tuple>().is_some();
            Ok(if is_tuple { Value::from_object(Tuple::new(items)) } else { Value::from(items) })
        }
        // What is in it was written out when it was put there.
        ValueKind::Map if is(value, "Namespace") => Ok(value.clone()),
        ValueKind::Map => {
            let mut pairs = Vec::new();
            for key in value.try_iter()? {
                let item = written_out(&value.get_item(&key)?, meter)?;
                pairs.push((written_out(&key, meter)?, item));
            }
            Ok(Value::from_pairs(pairs))
        }
        _ => Ok(value.clone()),
    }
}

/// A value that a name is given: not deeper than values may be, and with nothing in it that is made
/// later.
///
/// Each round of a loop could otherwise wrap what the one before has left, until going over it, or
/// dropping it, overflows the stack, or takes a time that doubles with every round.
pub(super) fn kept(state: &State, value: Value) -> Result<Value, Error> {
    keep(state, value, false)
}

/// As [`kept`], for what a namespace is given, where it outlives a round: no namespace, which could
/// hold itself, and no macro, which holds the variables around it.
pub(super) fn kept_in_namespace(state: &State, value: Value) -> Result<Value, Error> {
    keep(state, value, true)
}

fn keep(state: &State, value: Value, alone: bool) -> Result<Value, Error> {
    let mut meter = Meter::new(state);
    // Much the most values hold nothing.
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable | ValueKind::Map | ValueKind::Plain => {}
        _ => return Ok(value),
    }
    if holds_lazy(&value, 0, alone, &mut meter)? { written_out(&value, &mut meter) } else { Ok(value) }
}

/// Runs `work` on a stack that is large enough for whatever a template may do, and no longer than a
/// rendering may take: the error is a sentence without its subject, the template.
///
/// Work that takes longer is left to itself, its result is dropped, and `endless` has that template
/// not run again.
#[cfg(not(target_arch = "wasm32"))]
pub(super) fn bounded<T: Send + 'static>(
    endless: &AtomicBool,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    if endless.load(Ordering::Relaxed) {
        return Err("has taken too long before, and is not run again".to_owned());
    }
    let (send, receive) = std::sync::mpsc::sync_channel(1);
    let work = move || {
        // Nobody receives it where it comes too late.
        let _ = send.send(crate::guard::guarded(work));
    };
    std::thread::Builder::new()
        .name("chat-template".to_owned())
        .stack_size(STACK)
        .spawn(work)
        .map_err(|e| format!("has no thread to run in: {e}"))?;
    match receive.recv_timeout(LONGEST_TIME) {
        Ok(Ok(result)) => Ok(result),
        Ok(Err(panic)) => Err(format!("made the template engine fail: {panic}")),
        Err(_) => {
            endless.store(true, Ordering::Relaxed);
            Err(format!("takes longer than {LONGEST_TIME:?}"))
        }
    }
}

/// There are no threads on this target: what a template may do fits the stack that there is.
#[cfg(target_arch = "wasm32")]
pub(super) fn bounded<T>(_: &AtomicBool, work: impl FnOnce() -> T) -> Result<T, String> {
    Ok(work())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::time::{Duration, Instant};

    use super::bounded;

    #[test]
    fn work_is_left_where_it_takes_too_long_and_what_it_panics_with_is_said() {
        let endless = AtomicBool::new(false);
        let result = bounded(&endless, || -> u8 { panic!("it broke") });
        assert_eq!(result, Err("made the template engine fail: it broke".to_owned()));
        assert_eq!(bounded(&endless, || 1), Ok(1));
        let start = Instant::now();
        let result = bounded(&endless, || std::thread::sleep(Duration::from_secs(30)));
        assert_eq!(result, Err("takes longer than 500ms".to_owned()));
        assert!(start.elapsed() < Duration::from_secs(20));
        assert_eq!(bounded(&endless, || 1), Err("has taken too long before, and is not run again".to_owned()));
    }

    #[test]
    fn the_stack_holds_what_a_callers_would_not() {
        fn deep(levels: u32) -> u64 {
            let block = std::hint::black_box([u64::from(levels); 128]);
            if levels == 0 { 0 } else { deep(levels - 1) + std::hint::black_box(block)[7] % 2 }
        }
        // 12 MB at the least, and three times that without optimisation.
        assert_eq!(bounded(&AtomicBool::new(false), || deep(12_000)), Ok(6_000));
    }
}
