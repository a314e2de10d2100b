//! Tokens of a sample with their weights: as heat on a terminal, as a table elsewhere.

use crate::ui::{BOLD, DIM, Style, table};

/// One token, ready to be shown.
#[derive(Debug, Clone, PartialEq)]
pub struct ShownToken {
    /// Its id.
    pub id: u32,
    /// Its text.
    pub piece: String,
    /// What is known where it is trained.
    pub trained: Option<TokenWeights>,
}

/// Weights of a trained token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenWeights {
    /// Probability under the model.
    pub p: f64,
    /// Weight under each loss, in the order of [`NAMES`]: token weight times sample weight.
    pub weights: [f64; NAMES.len()],
}

/// The losses, in the order of the weights.
pub const NAMES: [&str; 5] = ["sft", "dft", "bft", "bft-v3", "gce"];

/// From no weight to full weight: dark grey to bright red, legible under white text.
const RAMP: [u8; 8] = [236, 238, 52, 88, 124, 160, 196, 202];

/// The sample's text once for each loss; trained tokens glow by their weight, masked
/// ones are dim.
pub fn heat(tokens: &[ShownToken]) -> String {
    let mut text = String::new();
    for (loss, name) in NAMES.iter().enumerate() {
        text.push_str(&format!("{BOLD}{name:>6}{BOLD:#}  "));
        for token in tokens {
            let style = match &token.trained {
                None => DIM,
                Some(known) => glow(known.weights[loss]),
            };
            // A line break inside a token would carry its background to the terminal's edge.
            let piece = visible(&token.piece);
            text.push_str(&format!("{style}{piece}{style:#}"));
            if token.piece.ends_with('\n') {
                text.push_str("\n        ");
            }
        }
        text.push('\n');
    }
    text
}

/// The scale under the heat.
pub fn legend() -> String {
    let mut text = "weight  0 ".to_owned();
    for step in 0..RAMP.len() {
        let style = glow(step as f64 / (RAMP.len() - 1) as f64);
        text.push_str(&format!("{style}  {style:#}"));
    }
    text.push_str(&format!(" 1    {DIM}masked{DIM:#}"));
    text
}

fn glow(weight: f64) -> Style {
    let top = (RAMP.len() - 1) as f64;
    let step = (weight.clamp(0.0, 1.0) * top).round() as usize;
    Style::white_on(RAMP[step])
}

/// One line a token: position, id, text, probability and the weights; `-` where it is masked.
pub fn listing(tokens: &[ShownToken]) -> String {
    let mut rows = vec![["at", "id", "token", "p"].into_iter().chain(NAMES).map(str::to_owned).collect::<Vec<_>>()];
    for (position, token) in tokens.iter().enumerate() {
        let mut row = vec![position.to_string(), token.id.to_string(), quoted(&token.piece)];
        match &token.trained {
            Some(known) => {
                row.push(format!("{:.4}", known.p));
                row.extend(known.weights.iter().map(|weight| format!("{weight:.4}")));
            }
            None => row.extend(std::iter::repeat_n("-".to_owned(), 1 + NAMES.len())),
        }
        rows.push(row);
    }
    table(&rows)
}

/// Control characters as symbols, so that they can be seen and do nothing.
fn visible(piece: &str) -> String {
    piece
        .chars()
        .map(|c| match c {
            '\n' => '↵',
            '\t' => '→',
            c if c.is_control() => '·',
            c => c,
        })
        .collect()
}

fn quoted(piece: &str) -> String {
    format!("'{}'", visible(piece))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens() -> Vec<ShownToken> {
        let known = TokenWeights { p: 0.25, weights: [1.0, 0.25, 0.1, 0.0, 0.5] };
        vec![
            ShownToken { id: 5, piece: "Q\n".into(), trained: None },
            ShownToken { id: 17, piece: " A\u{1b}".into(), trained: Some(known) },
        ]
    }

    #[test]
    fn the_listing_shows_masks_and_weights_and_defuses_control_characters() {
        let text = listing(&tokens());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[1].contains("'Q↵'") && lines[1].matches(" -").count() == 1 + NAMES.len(), "{text}");
        assert!(lines[2].contains("' A·'"), "{text}");
        assert!(lines[2].contains("0.2500") && lines[2].ends_with("0.0000  0.5000"), "{text}");
    }

    #[test]
    fn heat_grows_with_weight() {
        let text = heat(&tokens());
        // SFT weighs the token 1, BFT v3 0: the ramp's two ends. GCE lies between.
        let lines: Vec<&str> = text.lines().filter(|line| line.contains("A·")).collect();
        assert_eq!(lines.len(), NAMES.len(), "{text:?}");
        assert!(lines[0].contains("48;5;202"), "{text:?}");
        assert!(lines[3].contains("48;5;236"), "{text:?}");
        assert!(!text.contains("\u{1b} "), "{text:?}");
    }
}
