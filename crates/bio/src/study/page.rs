//! The report as one page: what was to be compared, tables and pictures. Nothing is loaded from
//! elsewhere.

use super::compare::Summary;
use crate::report::Report;

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}\
table{border-collapse:collapse;display:block;overflow-x:auto}td,th{padding:.25rem .6rem;border-bottom:1px solid #ddd;text-align:right;white-space:nowrap}\
td:first-child,th:first-child{text-align:left}svg{max-width:100%;height:auto}";

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn table(report: &Report) -> String {
    let mut text = format!("<h2>{}</h2>\n", escaped(&report.title));
    for (what, value) in &report.about {
        text.push_str(&format!("<p>{}: {}</p>\n", escaped(what), escaped(value)));
    }
    text.push_str("<table>\n");
    for (number, row) in report.cells().iter().enumerate() {
        let tag = if number == 0 { "th" } else { "td" };
        let cells = row.iter().map(|cell| format!("<{tag}>{}</{tag}>", escaped(cell)));
        text.push_str(&format!("<tr>{}</tr>\n", cells.collect::<String>()));
    }
    text + "</table>\n"
}

pub(super) fn page(summary: &Summary, pictures: &[String]) -> String {
    let mut body = String::from(
        "<h1>Where a loss helps</h1>\n<p>Not for clinical use. Written down before the first run, one comparison a regime:</p>\n<ul>\n",
    );
    for line in &summary.comparisons {
        body.push_str(&format!("<li>{}</li>\n", escaped(line)));
    }
    body.push_str("</ul>\n");
    let mut tables = summary.tables().map(table);
    body.extend(tables.next());
    body.extend(pictures.iter().map(String::as_str));
    body.extend(tables);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n<title>bft: where a loss helps</title>\n<style>{STYLE}</style>\n{body}</html>\n"
    )
}
