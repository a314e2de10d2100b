//! A tokenizer as the files from which transformers loads it, for models that came without them.

use serde_json::{Map, Value, json};

use super::Tokenizer;
use crate::{ChatTemplate, FormatError, Result};

impl Tokenizer {
    /// Contents of `tokenizer.json` and of `tokenizer_config.json`, which also holds the chat
    /// template; texts are at most `context` tokens long.
    ///
    /// # Errors
    /// Where the tokenizer cannot be written.
    pub(crate) fn folder_files(&self, template: Option<&ChatTemplate>, context: usize) -> Result<[(&str, Value); 2]> {
        let unwritable = |e: &dyn std::fmt::Display| FormatError::Tokenizer(format!("cannot be written: {e}"));
        let json = self.parts.inner.to_string(false).map_err(|e| unwritable(&e))?;
        let mut tokenizer: Value = serde_json::from_str(&json).map_err(|e| unwritable(&e))?;
        tokenizer["post_processor"] = self.post_processor();
        let mut config = Map::new();
        config.extend(self.parts.named.iter().map(|(name, token)| (name.clone(), token.as_str().into())));
        for (key, value) in [
            // Takes tokenizer.json as it is.
            ("tokenizer_class", json!("PreTrainedTokenizerFast")),
            ("model_input_names", json!(["input_ids", "attention_mask"])),
            ("clean_up_tokenization_spaces", json!(false)),
            ("model_max_length", json!(context)),
        ] {
            config.insert(key.to_owned(), value);
        }
        config.extend(template.map(|template| ("chat_template".to_owned(), template.source().into())));
        Ok([("tokenizer.json", tokenizer), ("tokenizer_config.json", Value::Object(config))])
    }

    /// What puts the beginning and end tokens around a text.
    fn post_processor(&self) -> Value {
        let ends = &self.parts.ends;
        if ends.first.is_empty() && ends.last.is_empty() {
            return Value::Null;
        }
        let token = |id: &u32| self.parts.inner.id_to_token(*id).unwrap_or_default();
        let around = |sequence: &str, kind: u32| {
            let special = |id: &u32| json!({"SpecialToken": {"id": token(id), "type_id": kind}});
            let mut list: Vec<Value> = ends.first.iter().map(special).collect();
            list.push(json!({"Sequence": {"id": sequence, "type_id": kind}}));
            list.extend(ends.last.iter().map(special));
            list
        };
        let all = ends.first.iter().chain(&ends.last);
        let pair = [around("A", 0), around("B", 1)].concat();
        let special: Map<String, Value> =
            all.map(|id| (token(id), json!({"id": token(id), "ids": [id], "tokens": [token(id)]}))).collect();
        json!({
            "type": "TemplateProcessing",
            "single": around("A", 0),
            "pair": pair,
            "special_tokens": special,
        })
    }
}
