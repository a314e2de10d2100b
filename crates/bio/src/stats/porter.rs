//! Porter's stemmer (Porter 1980) with the extensions of NLTK, which rouge-score stems with.

/// Stem of a lower-case word.
pub fn stem(word: &str) -> String {
    if let Some((_, stem)) = IRREGULAR.iter().find(|(form, _)| *form == word) {
        return (*stem).to_owned();
    }
    if word.len() <= 2 || !word.is_ascii() {
        return word.to_owned();
    }
    let word = step_1a(word);
    let word = step_1b(&word);
    let word = step_1c(&word);
    let word = step_2(&word);
    let word = rules(&word, &STEP_3, |stem| measure(stem) > 0);
    let word = step_4(&word);
    step_5(&word)
}

const IRREGULAR: [(&str, &str); 16] = [
    ("sky", "sky"),
    ("skies", "sky"),
    ("dying", "die"),
    ("lying", "lie"),
    ("tying", "tie"),
    ("news", "news"),
    ("innings", "inning"),
    ("inning", "inning"),
    ("outings", "outing"),
    ("outing", "outing"),
    ("cannings", "canning"),
    ("canning", "canning"),
    ("howe", "howe"),
    ("proceed", "proceed"),
    ("exceed", "exceed"),
    ("succeed", "succeed"),
];

fn consonant(word: &[u8], i: usize) -> bool {
    match word[i] {
        b'a' | b'e' | b'i' | b'o' | b'u' => false,
        b'y' => i == 0 || !consonant(word, i - 1),
        _ => true,
    }
}

/// How many times vowels are followed by consonants.
fn measure(stem: &str) -> usize {
    let bytes = stem.as_bytes();
    let kinds: Vec<bool> = (0..bytes.len()).map(|i| consonant(bytes, i)).collect();
    kinds.windows(2).filter(|pair| !pair[0] && pair[1]).count()
}

fn has_vowel(stem: &str) -> bool {
    let bytes = stem.as_bytes();
    (0..bytes.len()).any(|i| !consonant(bytes, i))
}

fn ends_double(word: &str) -> bool {
    let bytes = word.as_bytes();
    let n = bytes.len();
    n >= 2 && bytes[n - 1] == bytes[n - 2] && consonant(bytes, n - 1)
}

/// Consonant, vowel, consonant other than w, x, y; NLTK also takes vowel, consonant where that is
/// all.
fn ends_cvc(word: &str) -> bool {
    let bytes = word.as_bytes();
    let n = bytes.len();
    let long = n >= 3
        && consonant(bytes, n - 3)
        && !consonant(bytes, n - 2)
        && consonant(bytes, n - 1)
        && !matches!(bytes[n - 1], b'w' | b'x' | b'y');
    long || (n == 2 && !consonant(bytes, 0) && consonant(bytes, 1))
}

/// Applies the first rule whose ending fits, if its condition holds.
fn rules(word: &str, table: &[(&str, &str)], holds: impl Fn(&str) -> bool) -> String {
    for (ending, with) in table {
        if let Some(stem) = word.strip_suffix(ending) {
            return if holds(stem) { format!("{stem}{with}") } else { word.to_owned() };
        }
    }
    word.to_owned()
}

fn step_1a(word: &str) -> String {
    if word.ends_with("ies") && word.len() == 4 {
        return format!("{}ie", &word[..1]);
    }
    rules(word, &[("sses", "ss"), ("ies", "i"), ("ss", "ss"), ("s", "")], |_| true)
}

fn step_1b(word: &str) -> String {
    if let Some(stem) = word.strip_suffix("ied") {
        return format!("{stem}{}", if word.len() == 4 { "ie" } else { "i" });
    }
    if let Some(stem) = word.strip_suffix("eed") {
        return if measure(stem) > 0 { format!("{stem}ee") } else { word.to_owned() };
    }
    let stem = ["ed", "ing"].iter().find_map(|ending| word.strip_suffix(ending).filter(|stem| has_vowel(stem)));
    let Some(stem) = stem else {
        return word.to_owned();
    };
    if ["at", "bl", "iz"].iter().any(|ending| stem.ends_with(ending)) {
        return format!("{stem}e");
    }
    if ends_double(stem) {
        let keep = stem.ends_with(['l', 's', 'z']);
        return stem[..stem.len() - usize::from(!keep)].to_owned();
    }
    if measure(stem) == 1 && ends_cvc(stem) {
        return format!("{stem}e");
    }
    stem.to_owned()
}

fn step_1c(word: &str) -> String {
    match word.strip_suffix('y') {
        Some(stem) if stem.len() > 1 && consonant(stem.as_bytes(), stem.len() - 1) => {
            format!("{stem}i")
        }
        _ => word.to_owned(),
    }
}

const STEP_2: [(&str, &str); 20] = [
    ("ational", "ate"),
    ("tional", "tion"),
    ("enci", "ence"),
    ("anci", "ance"),
    ("izer", "ize"),
    ("bli", "ble"),
    ("alli", "al"),
    ("entli", "ent"),
    ("eli", "e"),
    ("ousli", "ous"),
    ("ization", "ize"),
    ("ation", "ate"),
    ("ator", "ate"),
    ("alism", "al"),
    ("iveness", "ive"),
    ("fulness", "ful"),
    ("ousness", "ous"),
    ("aliti", "al"),
    ("iviti", "ive"),
    ("biliti", "ble"),
];

fn step_2(word: &str) -> String {
    // NLTK: a word in -alli loses -li and goes through the step again.
    if let Some(stem) = word.strip_suffix("alli")
        && measure(stem) > 0
    {
        return step_2(&format!("{stem}al"));
    }
    for (ending, with) in STEP_2 {
        if let Some(stem) = word.strip_suffix(ending) {
            return if measure(stem) > 0 { format!("{stem}{with}") } else { word.to_owned() };
        }
    }
    if let Some(stem) = word.strip_suffix("fulli") {
        return if measure(stem) > 0 { format!("{stem}ful") } else { word.to_owned() };
    }
    // The l of -logi counts towards the stem.
    if let Some(stem) = word.strip_suffix("ogi")
        && stem.ends_with('l')
        && measure(stem) > 0
    {
        return format!("{stem}og");
    }
    word.to_owned()
}

const STEP_3: [(&str, &str); 7] =
    [("icate", "ic"), ("ative", ""), ("alize", "al"), ("iciti", "ic"), ("ical", "ic"), ("ful", ""), ("ness", "")];

fn step_4(word: &str) -> String {
    const ENDINGS: [&str; 19] = [
        "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ion", "ou", "ism", "ate",
        "iti", "ous", "ive", "ize",
    ];
    for ending in ENDINGS {
        if let Some(stem) = word.strip_suffix(ending) {
            let fits = measure(stem) > 1 && (ending != "ion" || stem.ends_with(['s', 't']));
            return if fits { stem.to_owned() } else { word.to_owned() };
        }
    }
    word.to_owned()
}

fn step_5(word: &str) -> String {
    let mut word = word.to_owned();
    if let Some(stem) = word.strip_suffix('e') {
        let m = measure(stem);
        if m > 1 || (m == 1 && !ends_cvc(stem)) {
            word = stem.to_owned();
        }
    }
    if word.ends_with("ll") && measure(&word[..word.len() - 1]) > 1 {
        word.pop();
    }
    word
}
