//! Tokens to measure with: a plain text, round and round. Random tokens would be so unlikely that
//! their weights underflow, and products of such numbers are slow on some processors.

use bft_core::Batch;
use bft_formats::EmbeddingModel;
use bft_train::Sample;

use crate::error::CliError;

const TEXT: &str = "\
A cell reads only a part of its genome at any time. Which part depends on what the cell is, on what its neighbours \
tell it, and on what has happened to it before. Proteins that bind DNA find short patterns among three billion letters \
and call the machinery that copies a gene into RNA. The copy is cut, joined and carried out of the nucleus, where \
ribosomes translate it, three letters at a time, into a chain that folds while it grows. Some of these chains carry \
oxygen, some cut sugar, some hold the cell in shape, and a few go back into the nucleus to decide what is read next. \
When one of them is missing, others often take over, and for that reason it is hard to tell what a gene does by \
taking it away. Measuring many cells one by one has shown that there is no average cell: within one tissue each is \
on its own way from one state to another, and a medicine meets all of them at once.";

/// Samples of the given lengths, each from another place of the text; the last `trained_share` of
/// each is trained.
pub fn samples(model: &EmbeddingModel, lengths: &[usize], trained_share: f64) -> Result<Vec<Sample>, CliError> {
    let (vocab, tokenizer) = match model {
        EmbeddingModel::Decoder(model) => (model.config.vocab_size as u32, &model.tokenizer),
        EmbeddingModel::Encoder(model) => (model.config.vocab_size as u32, &model.tokenizer),
    };
    let text: Vec<u32> = match tokenizer {
        Some(tokenizer) => tokenizer.encode(TEXT, false).map_err(CliError::failed)?,
        // Any ids will do where nobody can read them.
        None => (0..199).map(|id| id * 31).collect(),
    };
    let sample = |(index, &length): (usize, &usize)| {
        let tokens: Vec<u32> = (0..length).map(|at| text[(index * 37 + at) % text.len()] % vocab).collect();
        let trained = ((length as f64 * trained_share).ceil() as usize).clamp(1, length);
        let label = |(at, id): (usize, &u32)| {
            if at >= length - trained { *id as i32 } else { bft_train::MASKED }
        };
        Sample {
            labels: tokens.iter().enumerate().map(label).collect(),
            tokens,
            origin: bft_train::Origin::line(&"bench".into(), index + 1),
        }
    };
    Ok(lengths.iter().enumerate().map(sample).collect())
}

/// One packed batch of samples.
pub fn batch(samples: &[Sample]) -> Batch {
    bft_train::pack(&samples.iter().collect::<Vec<_>>())
}
