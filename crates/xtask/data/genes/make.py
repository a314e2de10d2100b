#!/usr/bin/env python3
"""Makes the gene facts of `cargo xtask demo` from two Debian packages. See README.md beside this file.

    python3 make.py                 download the packages with apt-get, write the files beside this script
    python3 make.py --debs DIR      take the two .deb files from DIR instead
    python3 make.py --check         write nothing, fail if the committed files differ from what would be made

The lists below name which gene, alias or GO term to ask about; what is said of it comes from the databases, and a pick
that the databases do not bear out is an error. Standard library only. The same packages give the same bytes.
"""

import argparse
import hashlib
import io
import json
import pathlib
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import tempfile

SEED = "bft-genes-3"  # part of every hash that picks a phrasing or a split
PACKAGES = {
    "r-bioc-org.hs.eg.db": (
        "3.16.0-1",
        "0f61810d35b858915b1a9787d8dcab08b7e164c14c20a9e1d86eb9837308c2c2",
        "usr/lib/R/site-library/org.Hs.eg.db/extdata/org.Hs.eg.sqlite",
    ),
    "r-bioc-go.db": (
        "3.16.0-1",
        "6cf9c43b97212811ecb7ad0d7cde12e76f984ab7494a59c02455239a9dd3243d",
        "usr/lib/R/site-library/GO.db/extdata/GO.sqlite",
    ),
}
# Evidence that a person judged: from experiments, an author's statement, or a curator's inference.
EVIDENCE = ("EXP", "IDA", "IPI", "IMP", "IGI", "IEP", "TAS", "IC")

# kind -> (training questions, test questions, answer). No test question occurs in training. The answers take up words of
# the questions: what is left to learn is the fact.
PHRASINGS = {
    "name": (
        [
            "What is the full name of the gene {subject}?",
            "Give the full name of {subject}.",
            "Which name does the gene symbol {subject} stand for?",
            "Tell me the name of the human gene {subject}.",
        ],
        [
            "Which full name is abbreviated as {subject}?",
            "Write out the name behind the symbol {subject}.",
        ],
        "The full name of {subject} is {answer}.",
    ),
    "process": (
        [
            "Name a biological process of {subject}.",
            "Which biological process does the gene {subject} take part in?",
            "What process involves the {subject} gene product?",
            "Give one Gene Ontology process of {subject}.",
        ],
        [
            "Tell me a process in which {subject} plays a role.",
            "Which process would the Gene Ontology list for {subject}?",
        ],
        "The biological process of {subject} is {answer}.",
    ),
    "function": (
        [
            "What is a molecular function of {subject}?",
            "Name a molecular function of the {subject} gene product.",
            "Which molecular function does the gene {subject} have?",
            "Give one Gene Ontology function of {subject}.",
        ],
        [
            "At the molecular level, what function does {subject} serve?",
            "Which function would the Gene Ontology list for {subject}?",
        ],
        "The molecular function of {subject} is {answer}.",
    ),
}
TRAIN_PHRASINGS_PER_FACT = 2
# One gene in this many, with all its facts, is kept out of training.
OTHER_ONE_IN = 6

# The genes to name, a family a line.
NAME = """
TP53 TP73 PTEN VHL APP AR VDR ESR1 ESR2 INS INSR LEP LEPR ALB HTT VWF CRP MTOR HGF EGF EGFR TFRC
IL1A IL1B IL2 IL4 IL6 IL7 IL10 IL13 IL15 IL18 IL2RA IL7R
TLR2 TLR3 TLR4 TLR5 TLR8 TLR9 TNF TNFSF11 TNFRSF1A TNFRSF1B TRAF6
CASP1 CASP3 CASP7 CASP8 CASP9 MMP1 MMP2 MMP3 MMP9 MMP13 TIMP1
KRT1 KRT5 KRT8 KRT10 KRT14 KRT18 COL1A1 COL1A2 COL2A1 COL3A1 COL5A1 COL7A1
CYP1A1 CYP2C9 CYP2C19 CYP2D6 CYP2E1 CYP3A4 CYP17A1 CYP19A1
HBA1 HBA2 HBB HBD HBG1 RPL3 RPL5 RPL11 RPS3 RPS6 RPS14
CXCL8 CXCL12 CXCR4 CCL2 CCL5 CCR2 CCR5 CD14 CD40 CD40LG
HLA-A HLA-B HLA-C HLA-G IFNG IFNB1 TGFB1 TGFBR1 TGFBR2 BMP2 BMP4 SMAD2 SMAD3 SMAD4
FGF2 FGFR1 FGFR2 FGFR3 VEGFA IGF1 IGF2 IGF1R IGFBP3 PDGFRA PDGFRB
STAT1 STAT3 JAK1 JAK2 MAPK1 MAPK3 MAPK8 MAPK14 CDK1 CDK2 CDK4 CDK6 CDKN1A CDKN1B CDKN2A CCNB1 CCND1
HDAC1 HDAC2 SIRT1 DNMT1 DNMT3A SOX2 SOX9 FOXO1 FOXO3 FOXP3 PAX6 GATA1 GATA3 HOXA1 NOTCH1
WNT3A WNT5A FZD4 ITGA5 ITGAV ITGB1 ITGB3 APOA1 APOB APOE F5 F8 F9 SERPINA1 SERPINE1
DRD2 DRD4 HTR2A SLC2A1 SLC6A3 SLC6A4 KCNQ1 KCNH2 SCN5A ABCB1 ABCG2 SOD1 SOD2
""".split()

# GO biological process -> genes
PROCESS = {
    "BMP signaling pathway": "BMP2 BMP4 SMAD4",
    "DNA methylation": "DNMT1 DNMT3A",
    "Kit signaling pathway": "KIT",
    "Notch signaling pathway": "JAG1 NOTCH1 NOTCH2",
    "androgen receptor signaling pathway": "AR",
    "blood coagulation": "F8 F9 VWF",
    "brain-derived neurotrophic factor receptor signaling pathway": "BDNF",
    "canonical Wnt signaling pathway": "CTNNB1 FZD4 WNT3A",
    "cholesterol homeostasis": "APOA1 APOB APOE",
    "collagen catabolic process": "MMP1 MMP2 MMP9 MMP13",
    "collagen fibril organization": "COL1A1 COL1A2 COL2A1 COL3A1 COL5A1",
    "cytoplasmic translation": "RPL3 RPL5 RPL11 RPS3 RPS6 RPS14",
    "epidermal growth factor receptor signaling pathway": "EGF EGFR",
    "extrinsic apoptotic signaling pathway": "CASP8",
    "fibroblast growth factor receptor signaling pathway": "FGF2 FGFR1 FGFR2 FGFR3",
    "histone deacetylation": "HDAC1 HDAC2",
    "insulin receptor signaling pathway": "INS INSR IRS1",
    "insulin-like growth factor receptor signaling pathway": "IGF1 IGF1R",
    "integrin-mediated signaling pathway": "ITGA5 ITGAV ITGB1 ITGB3",
    "interferon-gamma-mediated signaling pathway": "IFNG IFNGR1",
    "interleukin-1-mediated signaling pathway": "IL1B IL1R1",
    "interleukin-6-mediated signaling pathway": "IL6 IL6R",
    "interleukin-15-mediated signaling pathway": "IL15",
    "interleukin-17-mediated signaling pathway": "IL17A",
    "interleukin-18-mediated signaling pathway": "IL18",
    "intracellular estrogen receptor signaling pathway": "ESR1 ESR2",
    "leptin-mediated signaling pathway": "LEPR",
    "oxygen transport": "HBA1 HBA2 HBB HBD HBG1",
    "p38MAPK cascade": "MAPK14",
    "platelet-derived growth factor receptor signaling pathway": "PDGFRA PDGFRB",
    "potassium ion transmembrane transport": "KCNH2 KCNQ1",
    "removal of superoxide radicals": "SOD1 SOD2",
    "sodium ion transport": "SCN5A",
    "transforming growth factor beta receptor signaling pathway": "TGFB1 TGFB2 TGFBR1 TGFBR2",
    "tumor necrosis factor-mediated signaling pathway": "TNF TNFRSF1A TNFRSF1B",
    "type I interferon signaling pathway": "IFNA1 IFNAR1 IFNB1",
    "vascular endothelial growth factor receptor signaling pathway": "FLT1 KDR VEGFA",
}

# GO molecular function -> genes
FUNCTION = {
    "DNA (cytosine-5-)-methyltransferase activity": "DNMT1 DNMT3A",
    "G protein-coupled serotonin receptor activity": "HTR2A",
    "MAP kinase activity": "MAPK1 MAPK3 MAPK14",
    "aldehyde dehydrogenase (NAD+) activity": "ALDH2",
    "androgen binding": "AR",
    "angiotensin type II receptor activity": "AGTR1",
    "beta2-adrenergic receptor activity": "ADRB2",
    "catechol O-methyltransferase activity": "COMT",
    "chemokine activity": "CCL5 CXCL8 CXCL10 CXCL12",
    "chemokine receptor activity": "CCR2 CCR5",
    "cyclin-dependent protein serine/threonine kinase activity": "CDK1 CDK2 CDK4 CDK6",
    "cysteine-type endopeptidase activity": "CASP1 CASP3 CASP4 CASP7 CASP8 CASP9",
    "dipeptidyl-peptidase activity": "DPP4",
    "dopamine:sodium symporter activity": "SLC6A3",
    "epidermal growth factor receptor binding": "EGF",
    "fibroblast growth factor receptor binding": "FGF2",
    "glucose transmembrane transporter activity": "SLC2A1",
    "glutathione transferase activity": "GSTM1 GSTP1",
    "histone deacetylase activity": "HDAC1 HDAC2 HDAC3",
    "insulin receptor activity": "INSR",
    "insulin receptor binding": "INS IGF1",
    "interleukin-2 receptor binding": "IL2",
    "interleukin-4 receptor activity": "IL4R",
    "interleukin-6 receptor binding": "IL6",
    "interleukin-7 receptor activity": "IL7R",
    "isocitrate dehydrogenase (NADP+) activity": "IDH1 IDH2",
    "leptin receptor activity": "LEPR",
    "lipoprotein lipase activity": "LPL",
    "low-density lipoprotein particle receptor activity": "LDLR",
    "metalloendopeptidase activity": "MMP1 MMP2 MMP3 MMP7 MMP9 MMP14",
    "monoamine oxidase activity": "MAOA",
    "nuclear receptor activity": "ESR1 ESR2 VDR",
    "peroxidase activity": "MPO",
    "serotonin:sodium symporter activity": "SLC6A4",
    "structural constituent of ribosome": "RPL3 RPL5 RPL11 RPS3 RPS6 RPS14",
    "superoxide dismutase activity": "SOD1 SOD2",
    "thymidylate synthase activity": "TYMS",
    "transferrin receptor activity": "TFRC",
    "tumor necrosis factor receptor binding": "TNF",
    "voltage-gated potassium channel activity": "KCNH2 KCNQ1",
    "voltage-gated sodium channel activity": "SCN5A",
}

# What is asked before and after training: (kind, subject) of a trained fact, in its held-out phrasing.
QUESTIONS = [("name", "EGFR"), ("process", "TGFB1"), ("function", "MMP9")]

# The pool whose embeddings are compared; the neighbours of the first gene of every family are shown.
FAMILIES = {
    "tumor suppressors": "TP53 RB1 PTEN APC VHL BRCA1 BRCA2 NF1 CDKN2A STK11",
    "keratins": "KRT5 KRT1 KRT8 KRT10 KRT14 KRT15 KRT16 KRT17 KRT18 KRT19",
    "hemoglobins": "HBB HBA1 HBA2 HBD HBE1 HBG1 HBG2 HBM HBQ1 HBZ",
    "interleukins": "IL6 IL1B IL2 IL4 IL5 IL10 IL13 IL15 IL17A IL18",
    "ribosomal proteins": "RPS6 RPL3 RPL5 RPL10 RPL11 RPL23 RPS3 RPS14 RPS19 RPS27",
    "collagens": "COL1A1 COL1A2 COL2A1 COL3A1 COL4A1 COL4A5 COL5A1 COL6A1 COL7A1 COL17A1",
    "toll-like receptors": "TLR4 TLR1 TLR2 TLR3 TLR5 TLR6 TLR7 TLR8 TLR9 TLR10",
    "cytochromes P450": "CYP2D6 CYP1A1 CYP1A2 CYP2C9 CYP2C19 CYP2E1 CYP3A4 CYP3A5 CYP17A1 CYP19A1",
    "caspases": "CASP3 CASP1 CASP2 CASP4 CASP6 CASP7 CASP8 CASP9 CASP10 CASP14",
    "potassium channels": "KCNQ1 KCNA1 KCNA2 KCNB1 KCNC1 KCND3 KCNH2 KCNJ2 KCNJ11 KCNQ2",
}


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(package, version, digest, debs, work):
    """The path of the package's .deb, from `debs` or by apt-get, with its checksum verified."""
    if debs is None:
        subprocess.run(["apt-get", "download", f"{package}={version}"], cwd=work, check=True, stdout=subprocess.DEVNULL)
    found = sorted((debs or work).glob(f"{package}_{version}_*.deb"))
    if len(found) != 1:
        sys.exit(f"{package} {version}: expected one .deb in {debs or work}, found {len(found)}")
    if (actual := sha256(found[0])) != digest:
        sys.exit(f"{found[0]}: sha256 is {actual}, expected {digest}: another build of the package")
    return found[0]


def unpack(deb, member, target):
    """Writes one file of a .deb (an `ar` archive that holds data.tar.*) to `target`."""
    data = deb.read_bytes()
    offset = 8  # "!<arch>\n"
    while offset < len(data):
        name, size = data[offset : offset + 16].decode().strip(" /"), int(data[offset + 48 : offset + 58])
        if name.startswith("data.tar"):
            with tarfile.open(fileobj=io.BytesIO(data[offset + 60 : offset + 60 + size])) as tar:
                with tar.extractfile(f"./{member}") as source, open(target, "wb") as out:
                    shutil.copyfileobj(source, out)
            return
        offset += 60 + size + size % 2
    sys.exit(f"{deb}: no data archive in it")


class Source:
    """The two databases. Every method exits with a message where the databases do not bear a pick out."""

    def __init__(self, genes, go):
        self.db = sqlite3.connect(f"file:{genes}?mode=ro", uri=True)
        self.db.execute("ATTACH ? AS go", (f"file:{go}?mode=ro",))

    def rows(self, query, *args):
        return self.db.execute(query, args).fetchall()

    def gene(self, symbol):
        """(row key, Entrez Gene id, full name) of a protein-coding gene."""
        found = self.rows(
            "SELECT _id, gene_id, gene_name FROM gene_info JOIN genes USING (_id) JOIN genetype USING (_id)"
            " WHERE symbol = ? AND gene_type = 'protein-coding'",
            symbol,
        )
        if len(found) != 1:
            sys.exit(f"{symbol}: expected one protein-coding gene of this symbol, found {len(found)}")
        return found[0]

    def annotation(self, kind, symbol, term):
        """(GO id, evidence codes) of an annotation with judged evidence."""
        table = {"process": "go_bp", "function": "go_mf"}[kind]
        found = self.rows(
            f"SELECT DISTINCT go_id, evidence FROM {table} JOIN go.go_term USING (go_id)"
            f" WHERE {table}._id = ? AND term = ? AND evidence IN ({','.join('?' * len(EVIDENCE))}) ORDER BY evidence",
            self.gene(symbol)[0],
            term,
            *EVIDENCE,
        )
        if not found:
            sys.exit(f"{symbol}: no annotation {term!r} with evidence {' '.join(EVIDENCE)}")
        return found[0][0], ",".join(evidence for _, evidence in found)

    def fact(self, kind, symbol, term=None):
        """One fact as a dictionary with the columns of facts.tsv."""
        _, entrez, name = self.gene(symbol)
        go, evidence = ("", "") if kind == "name" else self.annotation(kind, symbol, term)
        return {"kind": kind, "subject": symbol, "answer": term or name, "entrez": entrez, "go": go, "evidence": evidence}


def order(*parts):
    """A number that depends on the seed and on these words alone, so that adding a fact moves no other."""
    return hashlib.sha256("|".join([SEED, *parts]).encode()).digest()


def pick_phrasings(fact, phrasings, count):
    return sorted(phrasings, key=lambda text: order(fact["kind"], fact["subject"], text))[:count]


def answer(fact):
    return PHRASINGS[fact["kind"]][2].format(**fact)


def row(fact, question):
    messages = [
        {"role": "user", "content": question.format(**fact)},
        {"role": "assistant", "content": answer(fact)},
    ]
    return json.dumps({"messages": messages}, ensure_ascii=False) + "\n"


def collect(source):
    facts = [source.fact("name", symbol) for symbol in sorted(NAME)]
    for kind, genes_of in (("process", PROCESS), ("function", FUNCTION)):
        pairs = sorted((symbol, term) for term, symbols in genes_of.items() for symbol in symbols.split())
        facts += [source.fact(kind, symbol, term) for symbol, term in pairs]
    keys = [(f["kind"], f["subject"]) for f in facts]
    if len(set(keys)) != len(keys):
        sys.exit(f"asked twice: {sorted({key for key in keys if keys.count(key) > 1})}")
    return facts


def is_other(fact):
    return int.from_bytes(order("split", fact["subject"])[:8]) % OTHER_ONE_IN == 0


def held_out(fact):
    return pick_phrasings(fact, PHRASINGS[fact["kind"]][1], 1)[0]


def build(source):
    """name -> content of every file."""
    every = collect(source)
    facts, others = [f for f in every if not is_other(f)], [f for f in every if is_other(f)]
    for train, test, _ in PHRASINGS.values():
        assert not set(train) & set(test), "a test phrasing occurs in training"

    columns = ["kind", "subject", "answer", "entrez", "go", "evidence"]
    table = "".join("\t".join([split] + [f[c] for c in columns]) + "\n" for split, fs in (("trained", facts), ("other", others)) for f in fs)
    train = [
        (order("train", f["kind"], f["subject"], text), row(f, text))
        for f in facts
        for text in pick_phrasings(f, PHRASINGS[f["kind"]][0], TRAIN_PHRASINGS_PER_FACT)
    ]
    by_subject = {(f["kind"], f["subject"]): f for f in facts}
    questions = [
        {"question": held_out(f).format(**f), "answer": answer(f)} for f in (by_subject[key] for key in QUESTIONS)
    ]
    families = {name: symbols.split() for name, symbols in FAMILIES.items()}
    pool = sorted(symbol for symbols in families.values() for symbol in symbols)
    assert len(pool) == len(set(pool)), "a gene is in two families"
    demo = {
        "questions": questions,
        "neighbours_of": [symbols[0] for symbols in families.values()],
        "families": families,
    }
    return {
        "facts.tsv": "\t".join(["split"] + columns) + "\n" + table,
        "train.jsonl": "".join(text for _, text in sorted(train)),
        "heldout.jsonl": "".join(row(f, held_out(f)) for f in facts),
        "other.jsonl": "".join(row(f, held_out(f)) for f in others),
        "embed.jsonl": "".join(json.dumps({"id": s, "text": f"{s}: {source.gene(s)[2]}"}) + "\n" for s in pool),
        "questions.json": json.dumps(demo, indent=2) + "\n",
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--debs", type=pathlib.Path, help="folder that holds the two .deb files")
    parser.add_argument("--check", action="store_true", help="compare with the committed files, write nothing")
    args = parser.parse_args()
    here = pathlib.Path(__file__).resolve().parent
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        databases = []
        for package, (version, digest, member) in PACKAGES.items():
            deb = fetch(package, version, digest, args.debs and args.debs.resolve(), work)
            databases.append(work / pathlib.Path(member).name)
            unpack(deb, member, databases[-1])
        files = build(Source(*databases))
    for name, content in files.items():
        data = content.encode()
        if not args.check:
            (here / name).write_bytes(data)
        elif not (here / name).exists() or (here / name).read_bytes() != data:
            sys.exit(f"{name}: differs from what the packages give; run make.py without --check")
        print(f"{name}: {content.count(chr(10))} lines, {len(data)} bytes, sha256 {hashlib.sha256(data).hexdigest()[:16]}")


if __name__ == "__main__":
    main()
