//! Metrics and models that the tasks need. What is written by hand is tested against scipy,
//! scikit-learn, rouge-score and torchmetrics.
//!
//! What a crate gives with the same numbers is the crate's. Stemmers do not: of 164 words of the
//! fixture, Porter's and Snowball's published ones stem 3 to 24 otherwise than NLTK does, which
//! rouge-score is defined by.

pub mod answers;
pub mod bootstrap;
pub mod calibration;
pub mod correlation;
pub mod enrichment;
pub mod features;
pub mod knn;
pub mod logistic;
pub mod mcnemar;
pub mod paired;
pub mod porter;
pub mod ranking;
pub mod ridge;
pub mod rouge;
pub mod tfidf;
