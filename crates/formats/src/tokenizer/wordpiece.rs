//! BERT's tokenizer from its `vocab.txt` alone.

use std::collections::BTreeMap;

use serde_json::Map;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::{AddedToken, Tokenizer as Inner};

use super::{EndRule, Ends, Tokenizer};
use crate::folder::Folder;
use crate::json::{Object, parse_object};
use crate::{FormatError, Result};

impl Tokenizer {
    /// The WordPiece tokenizer of a folder with `vocab.txt`, `None` where there is none: BERT's
    /// normaliser and word borders, with the settings of `tokenizer_config.json`, and `[CLS]` and
    /// `[SEP]` around a text.
    pub(crate) fn from_vocabulary(folder: &Folder) -> Result<Option<Self>> {
        let Some(bytes) = folder.get("vocab.txt")? else {
            return Ok(None);
        };
        let file = folder.file("vocab.txt");
        // A token's id is the number of its line; of a token that stands there twice, transformers
        // keeps the last.
        let vocabulary = WordPiece::read_bytes(&bytes)
            .map_err(|e| FormatError::malformed(&file, format!("{e}; get the file again")))?;
        let special = |token: &str| {
            vocabulary.get(token).copied().ok_or_else(|| {
                FormatError::missing(
                    &file,
                    format!("token {token}"),
                    "this is no vocabulary of BERT's; use the model's tokenizer.json",
                )
            })
        };
        let ends = Ends { first: vec![special("[CLS]")?], last: vec![special("[SEP]")?] };
        special("[UNK]")?;

        let config_file = folder.file("tokenizer_config.json");
        let map = match folder.get("tokenizer_config.json")? {
            Some(json) => parse_object(&config_file, &json)?,
            None => Map::new(),
        };
        let config = Object::new(&config_file, &map);
        if config.bool("do_basic_tokenize")? == Some(false) {
            return Err(FormatError::unsupported(
                &config_file,
                "do_basic_tokenize false",
                "save the tokenizer as tokenizer.json",
            ));
        }
        let lower = config.bool("do_lower_case")?.unwrap_or(true);
        let chinese = config.bool("tokenize_chinese_chars")?.unwrap_or(true);
        let accents = config.bool("strip_accents")?;

        let broken = |e| FormatError::malformed(&file, format!("gives no tokenizer: {e}"));
        let known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
            .into_iter()
            .filter(|token| vocabulary.contains_key(*token))
            .map(|token| AddedToken::from(token, true))
            .collect::<Vec<_>>();
        let model = WordPiece::builder().vocab(vocabulary).build().map_err(broken)?;
        let mut inner = Inner::new(model);
        inner
            .with_normalizer(Some(BertNormalizer::new(true, chinese, accents, lower)))
            .with_pre_tokenizer(Some(BertPreTokenizer));
        inner.add_special_tokens(&known);
        Ok(Some(Self::new(inner, BTreeMap::new(), EndRule::Ids(ends))))
    }
}
