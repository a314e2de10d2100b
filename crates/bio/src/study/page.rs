//! The report as one page: tables, pictures, and what differs beyond the seeds' spread. Nothing is
//! loaded from elsewhere.

use plotters::prelude::*;

use super::measure::MEASURES;
use super::summary::Summary;
use crate::error::{BioError, Result};

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}\
table{border-collapse:collapse;display:block;overflow-x:auto}td,th{padding:.25rem .6rem;border-bottom:1px solid #ddd;text-align:right;white-space:nowrap}\
td:first-child,th:first-child{text-align:left}svg{max-width:100%;height:auto}";

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

pub(super) fn page(summary: &Summary, about: &[(&str, String)]) -> Result<String> {
    let mut body = String::from(
        "<h1>Losses side by side on gene knowledge</h1>\n<p>The same facts, settings and seeds for every loss. Mean ± standard deviation over seeds. Not for clinical use.</p>\n<table>\n",
    );
    for (what, value) in about {
        body.push_str(&format!(
            "<tr><th>{what}</th><td style=\"text-align:left;white-space:normal\">{}</td></tr>\n",
            escaped(value)
        ));
    }
    body.push_str("</table>\n<h2>Results</h2>\n<table>\n<tr><th>loss</th>");
    for (name, less) in MEASURES {
        body.push_str(&format!("<th>{} {}</th>", escaped(name), if less { "↓" } else { "↑" }));
    }
    body.push_str("</tr>\n");
    for (index, row) in summary.rows.iter().enumerate() {
        body.push_str(&format!("<tr><td>{}</td>", escaped(&row.name)));
        for measure in 0..MEASURES.len() {
            body.push_str(&format!("<td>{}</td>", summary.shown(index, measure)));
        }
        body.push_str("</tr>\n");
    }
    body.push_str("</table>\n<h2>What differs beyond the seeds' spread</h2>\n<p>A difference counts where no seed of the one setting reaches a seed of the other.</p>\n<ul>\n");
    for line in summary.against_sft() {
        body.push_str(&format!("<li>{}</li>\n", escaped(&line)));
    }
    body.push_str("</ul>\n<h2>Every seed</h2>\n");
    for (measure, (name, less)) in MEASURES.iter().enumerate() {
        if summary.rows.iter().any(|row| !row.seeds[measure].is_empty()) {
            body.push_str(&picture(
                summary,
                measure,
                &format!("{name} ({} is better)", if *less { "less" } else { "more" }),
            )?);
        }
    }
    Ok(format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n<title>bft: losses side by side</title>\n<style>{STYLE}</style>\n{body}</html>\n"
    ))
}

/// A dot a seed, a line a mean.
fn picture(summary: &Summary, measure: usize, title: &str) -> Result<String> {
    let problem =
        |error: &dyn std::fmt::Display| BioError::data(format!("the picture of {title} cannot be drawn: {error}"));
    let values = || summary.rows.iter().flat_map(|row| &row.seeds[measure]).copied();
    let (low, high) =
        values().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    let room = ((high - low) * 0.1).max(0.01);
    let count = summary.rows.len() as f64;
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (900, 280)).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .caption(title, ("sans-serif", 16))
            .margin(8)
            .x_label_area_size(28)
            .y_label_area_size(48)
            .build_cartesian_2d(-0.5..count - 0.5, low - room..high + room)
            .map_err(|error| problem(&error))?;
        let names = |x: &f64| {
            let whole = (x - x.round()).abs() < 1e-6;
            let row = summary.rows.get(x.round().max(0.0) as usize).filter(|_| whole);
            row.map_or_else(String::new, |row| row.name.clone())
        };
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_labels(summary.rows.len() * 2 + 1)
            .x_label_formatter(&names)
            .label_style(("sans-serif", 11))
            .draw()
            .map_err(|error| problem(&error))?;
        let dots = summary.rows.iter().enumerate().flat_map(|(x, row)| {
            row.seeds[measure]
                .iter()
                .map(move |value| Circle::new((x as f64, *value), 4, RGBColor(0x1f, 0x77, 0xb4).mix(0.7).filled()))
        });
        chart.draw_series(dots).map_err(|error| problem(&error))?;
        let means = summary.rows.iter().enumerate().filter_map(|(x, row)| {
            let (mean, _) = row.mean(measure)?;
            Some(PathElement::new(
                [(x as f64 - 0.25, mean), (x as f64 + 0.25, mean)],
                RGBColor(0xd6, 0x27, 0x28).stroke_width(2),
            ))
        });
        chart.draw_series(means).map_err(|error| problem(&error))?;
        area.present().map_err(|error| problem(&error))?;
    }
    Ok(svg)
}
