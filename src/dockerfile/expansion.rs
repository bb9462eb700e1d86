//! Quotes, escapes and variables in words, as BuildKit's shell lexer takes them.

use std::collections::HashMap;
use std::iter::Peekable;
use std::mem;
use std::str::Chars;

use super::pattern::{End, Pattern};

/// How deep substitutions may be within each other.
const DEEPEST: usize = 64;
/// The longest result of an expansion that is followed, in bytes: more than any reference and any platform has. It
/// keeps variables made of variables from growing without end.
const LONGEST: usize = 1024;

/// Why there is no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stop {
    /// It depends on what is not known here.
    Undetermined,
    /// BuildKit refuses it, for this reason.
    Invalid(String),
}

/// The values of variables; none for one whose value is not known here.
pub(super) type Variables = HashMap<String, Option<String>>;

/// The word with its variables expanded, and without quotes and escapes.
pub(super) fn expand(word: &str, escape: char, variables: &Variables) -> Result<String, Stop> {
    let mut lexer = Lexer::new(word, escape, Some(variables));
    lexer.until(None, false).map(|(expanded, _)| expanded)
}

/// The words of a line, as here-documents are looked for: all variables stay as they are, and so do quotes and escapes
/// if `raw`.
pub(super) fn words(line: &str, raw: bool) -> Result<Vec<String>, Stop> {
    let mut lexer = Lexer::new(line, '\\', None);
    lexer.raw_quotes = raw;
    lexer.until(None, raw).map(|(_, words)| words)
}

struct Lexer<'a> {
    letters: Peekable<Chars<'a>>,
    escape: char,
    /// Without them, variables stay as they are written.
    variables: Option<&'a Variables>,
    raw_quotes: bool,
    raw_escapes: bool,
    depth: usize,
    /// The word that is being read. One for all depths, so a word before a substitution of several words is lost; so
    /// it is in BuildKit.
    word: String,
}

/// What a variable has.
enum Value<'a> {
    Unset,
    Set(&'a str),
}

#[derive(Default)]
struct Words {
    list: Vec<String>,
    within: bool,
}

impl Words {
    fn add(&mut self, word: &mut String, letter: char) {
        if !letter.is_whitespace() {
            self.add_raw(word, letter);
        } else if self.within && !word.is_empty() {
            self.list.push(mem::take(word));
            self.within = false;
        }
    }

    fn add_raw(&mut self, word: &mut String, letter: char) {
        word.push(letter);
        self.within = true;
    }

    fn end(mut self, word: &mut String) -> Vec<String> {
        if !word.is_empty() {
            self.list.push(mem::take(word));
        }
        self.list
    }
}

fn invalid<T>(reason: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Invalid(reason.into()))
}

impl<'a> Lexer<'a> {
    fn new(text: &'a str, escape: char, variables: Option<&'a Variables>) -> Self {
        let (letters, word) = (text.chars().peekable(), String::new());
        Self { letters, escape, variables, raw_quotes: false, raw_escapes: false, depth: 0, word }
    }

    /// Everything up to `end`, which is consumed, or to the end of the text.
    fn until(&mut self, end: Option<char>, raw_escapes: bool) -> Result<(String, Vec<String>), Stop> {
        if self.depth == DEEPEST {
            return Err(Stop::Undetermined);
        }
        self.depth += 1;
        let outer = mem::replace(&mut self.raw_escapes, raw_escapes);
        let result = self.read(end);
        self.raw_escapes = outer;
        self.depth -= 1;
        result
    }

    fn read(&mut self, end: Option<char>) -> Result<(String, Vec<String>), Stop> {
        let (mut text, mut words) = (String::new(), Words::default());
        self.word.clear();
        while let Some(&letter) = self.letters.peek() {
            if Some(letter) == end {
                self.letters.next();
                return Ok((text, words.end(&mut self.word)));
            }
            let special = match letter {
                '$' => Some(self.dollar()?),
                '<' => Some(self.less_than()),
                '\'' => Some(self.single_quotes()?),
                '"' => Some(self.double_quotes()?),
                _ => None,
            };
            match special {
                Some(value) => {
                    text.push_str(&value);
                    match letter {
                        // Nobody asks for the words then, and values may be long.
                        _ if self.variables.is_some() => {}
                        '$' => value.chars().for_each(|letter| words.add(&mut self.word, letter)),
                        _ => {
                            self.word.push_str(&value);
                            words.within = true;
                        }
                    }
                }
                None => self.plain(&mut text, &mut words),
            }
            self.check_length(&text)?;
        }
        match end {
            None => Ok((text, words.end(&mut self.word))),
            Some(end) => invalid(format!("the {end} that ends a substitution is missing")),
        }
    }

    fn check_length(&self, text: &str) -> Result<(), Stop> {
        let grows = self.variables.is_some();
        if grows && text.len() > LONGEST { Err(Stop::Undetermined) } else { Ok(()) }
    }

    fn plain(&mut self, text: &mut String, words: &mut Words) {
        let Some(letter) = self.letters.next() else { return };
        if letter != self.escape {
            words.add(&mut self.word, letter);
            text.push(letter);
            return;
        }
        if self.raw_escapes {
            words.add_raw(&mut self.word, letter);
            text.push(letter);
        }
        if let Some(escaped) = self.letters.next() {
            words.add_raw(&mut self.word, escaped);
            text.push(escaped);
        }
    }

    /// `<<` begins a here-document, and blanks may be between it and the document's name.
    fn less_than(&mut self) -> String {
        self.letters.next();
        let mut text = "<".to_owned();
        if self.letters.next_if_eq(&'<').is_some() {
            text.push('<');
            while let Some(blank) = self.letters.next_if(|letter| matches!(letter, '\t' | '\r' | ' ')) {
                text.push(blank);
            }
        }
        text
    }

    fn single_quotes(&mut self) -> Result<String, Stop> {
        let mut text = String::new();
        let quote = self.letters.next().filter(|_| self.raw_quotes);
        text.extend(quote);
        for letter in self.letters.by_ref() {
            if letter == '\'' {
                text.extend(quote);
                return Ok(text);
            }
            text.push(letter);
        }
        invalid("a ' has no other ' to end it")
    }

    fn double_quotes(&mut self) -> Result<String, Stop> {
        let mut text = String::new();
        let quote = self.letters.next().filter(|_| self.raw_quotes);
        text.extend(quote);
        while let Some(&letter) = self.letters.peek() {
            if letter == '$' {
                text.push_str(&self.dollar()?);
                self.check_length(&text)?;
                continue;
            }
            self.letters.next();
            if letter == '"' {
                text.extend(quote);
                return Ok(text);
            }
            if letter != self.escape {
                text.push(letter);
                continue;
            }
            if self.raw_escapes {
                text.push(letter);
            }
            let escape = self.escape;
            match self.letters.next_if(|&next| matches!(next, '"' | '$') || next == escape) {
                Some(escaped) => text.push(escaped),
                None if self.letters.peek().is_none() => {}
                // Nothing else can be escaped here; raw, it is there twice, as in BuildKit.
                None => text.push(letter),
            }
        }
        invalid("a \" has no other \" to end it")
    }

    fn dollar(&mut self) -> Result<String, Stop> {
        self.letters.next();
        if self.letters.next_if_eq(&'{').is_some() {
            return self.braces();
        }
        let name = self.name();
        if name.is_empty() {
            return Ok("$".to_owned());
        }
        match self.value(&name)? {
            _ if self.variables.is_none() => Ok(format!("${name}")),
            Value::Unset => Ok(String::new()),
            Value::Set(value) => Ok(value.to_owned()),
        }
    }

    fn braces(&mut self) -> Result<String, Stop> {
        match self.letters.peek() {
            None => return invalid("the } after a ${ is missing"),
            Some('{' | '}' | ':') => return invalid("${ has no name of a variable after it"),
            Some(_) => {}
        }
        let name = self.name();
        match self.letters.next() {
            None => invalid(format!("the }} after ${{{name} is missing")),
            Some('}') => match self.value(&name)? {
                _ if self.variables.is_none() => Ok(format!("${{{name}}}")),
                Value::Unset => Ok(String::new()),
                Value::Set(value) => Ok(value.to_owned()),
            },
            Some(':') => {
                let modifier = self.letters.next().unwrap_or_default();
                self.substitution(&name, modifier, true)
            }
            Some('/') => self.replacement(&name),
            Some(modifier) => self.substitution(&name, modifier, false),
        }
    }

    /// `${name-word}` and its like, after the modifier. With `empty_is_unset`, there was a colon before it.
    fn substitution(&mut self, name: &str, modifier: char, empty_is_unset: bool) -> Result<String, Stop> {
        let cuts = matches!(modifier, '#' | '%');
        // Later versions of BuildKit may know more.
        if !matches!(modifier, '-' | '+' | '?' | '#' | '%') || (cuts && empty_is_unset) {
            return Err(Stop::Undetermined);
        }
        let (word, _) = self.until(Some('}'), cuts)?;
        let found = self.value(name)?;
        if self.variables.is_none() {
            let colon = if empty_is_unset { ":" } else { "" };
            return Ok(format!("${{{name}{colon}{modifier}{word}}}"));
        }
        let value = match found {
            Value::Set(value) if !(empty_is_unset && value.is_empty()) => Some(value),
            _ => None,
        };
        match (modifier, value) {
            ('-', value) => Ok(value.map_or(word, str::to_owned)),
            ('+', value) => Ok(value.map(|_| word).unwrap_or_default()),
            ('?', Some(value)) => Ok(value.to_owned()),
            ('?', None) if !word.is_empty() => invalid(format!("{name}: {word}")),
            ('?', None) => invalid(format!("{name} must have a value; give it as a build argument")),
            (_, value) => cut(value.unwrap_or_default(), modifier, &word),
        }
    }

    /// `${name/pattern/replacement}`, after the first slash. Another slash there means all matches instead of one.
    fn replacement(&mut self, name: &str) -> Result<String, Stop> {
        let all = self.letters.next_if_eq(&'/').is_some();
        let (pattern, _) = self.until(Some('/'), true)?;
        let (replacement, _) = self.until(Some('}'), true)?;
        let found = self.value(name)?;
        if self.variables.is_none() {
            return Ok(format!("${{{name}/{pattern}/{replacement}}}"));
        }
        let value = if let Value::Set(value) = found { value } else { "" };
        let literal = Pattern::parse(&pattern).and_then(|pattern| pattern.literal());
        match literal.filter(|literal| !literal.is_empty()) {
            // In the replacement of all, BuildKit takes $ for a part of the match.
            Some(literal) if all && !replacement.contains('$') => Ok(value.replace(&literal, &replacement)),
            Some(literal) if !all => Ok(value.replacen(&literal, &replacement, 1)),
            _ => Err(Stop::Undetermined),
        }
    }

    /// Letters, digits and `_`; or digits alone; or one of the shell's special parameters.
    fn name(&mut self) -> String {
        let mut name = String::new();
        if let Some(special) = self.letters.next_if(|letter| "@*#?-$!".contains(*letter)) {
            name.push(special);
            return name;
        }
        let positional = self.letters.peek().is_some_and(|letter| letter.is_numeric());
        let belongs = |letter: &char| match positional {
            true => letter.is_numeric(),
            false => letter.is_alphanumeric() || *letter == '_',
        };
        while let Some(letter) = self.letters.next_if(belongs) {
            name.push(letter);
        }
        name
    }

    fn value(&self, name: &str) -> Result<Value<'a>, Stop> {
        match self.variables.and_then(|variables| variables.get(name)) {
            None => Ok(Value::Unset),
            Some(Some(value)) => Ok(Value::Set(value)),
            Some(None) => Err(Stop::Undetermined),
        }
    }
}

/// `${name#pattern}`, `##`, `%` and `%%`.
fn cut(value: &str, modifier: char, word: &str) -> Result<String, Stop> {
    let (longest, pattern) = word.strip_prefix(modifier).map_or((false, word), |pattern| (true, pattern));
    let end = if modifier == '#' { End::Prefix } else { End::Suffix };
    let pattern = Pattern::parse(pattern).ok_or(Stop::Undetermined)?;
    pattern.cut(value, end, longest).ok_or(Stop::Undetermined)
}
