//! Metrics and models that the tasks need. What is written by hand is tested against scipy, scikit-learn and rouge-score.

pub mod bootstrap;
pub mod correlation;
pub mod enrichment;
pub mod features;
pub mod knn;
pub mod logistic;
pub mod pca;
pub mod porter;
pub mod ranking;
pub mod ridge;
pub mod rouge;
pub mod tfidf;
