//! The loss curve of a run, as an SVG picture, from its metrics.jsonl.

use std::path::Path;

use plotters::prelude::*;
use serde_json::Value;

/// What the picture shows.
#[derive(Debug, Default, PartialEq)]
pub struct Curve {
    /// Step and NLL of its training tokens.
    pub train: Vec<(f64, f64)>,
    /// Step and NLL on the held-out rows.
    pub eval: Vec<(f64, f64)>,
}

impl Curve {
    /// Reads metrics.jsonl: `step` with `nll` for training rows, with `eval_nll` for evaluation
    /// rows.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text =
            std::fs::read_to_string(path).map_err(|error| format!("{}: cannot be read: {error}", path.display()))?;
        let mut curve = Curve::default();
        for (index, line) in text.lines().enumerate() {
            let row: Value = serde_json::from_str(line)
                .map_err(|error| format!("{}, line {}: {error}", path.display(), index + 1))?;
            let number = |key: &str| row.get(key).and_then(Value::as_f64);
            let Some(step) = number("step") else { continue };
            if let Some(nll) = number("nll") {
                curve.train.push((step, nll));
            }
            if let Some(nll) = number("eval_nll") {
                curve.eval.push((step, nll));
            }
        }
        Ok(curve)
    }

    /// NLL on the held-out rows before the first step and after the last.
    pub fn held_out(&self) -> Option<(f64, f64)> {
        match self.eval[..] {
            [first, .., last] => Some((first.1, last.1)),
            _ => None,
        }
    }

    /// Means over up to `width` steps, so that the trend shows through the noise of single batches.
    fn smooth(&self, width: usize) -> Vec<(f64, f64)> {
        let half = width / 2;
        (0..self.train.len())
            .map(|at| {
                let window = &self.train[at.saturating_sub(half)..(at + half + 1).min(self.train.len())];
                let mean = window.iter().map(|(_, nll)| nll).sum::<f64>() / window.len() as f64;
                (self.train[at].0, mean)
            })
            .collect()
    }

    /// Draws the picture.
    pub fn draw(&self, path: &Path, title: &str) -> Result<(), String> {
        let problem = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let points = || self.train.iter().chain(&self.eval);
        let last = points().map(|point| point.0).fold(1.0, f64::max);
        let top = points().map(|point| point.1).fold(0.1, f64::max) * 1.05;
        let first = points().map(|point| point.0).fold(last, f64::min);
        let blue = RGBColor(0x1f, 0x77, 0xb4);
        let red = RGBColor(0xd6, 0x27, 0x28);

        let area = SVGBackend::new(path, (840, 460)).into_drawing_area();
        area.fill(&WHITE).map_err(|error| problem(&error))?;
        let mut chart = ChartBuilder::on(&area)
            .caption(title, ("sans-serif", 20))
            .margin(14)
            .x_label_area_size(42)
            .y_label_area_size(54)
            .build_cartesian_2d(first..last, 0.0..top)
            .map_err(|error| problem(&error))?;
        chart
            .configure_mesh()
            .x_desc("optimiser step")
            .y_desc("NLL a token (nats)")
            .light_line_style(TRANSPARENT)
            .bold_line_style(BLACK.mix(0.1))
            .axis_desc_style(("sans-serif", 15))
            .label_style(("sans-serif", 13))
            .x_label_formatter(&|step| format!("{step:.0}"))
            .y_label_formatter(&|nll| format!("{nll:.1}"))
            .draw()
            .map_err(|error| problem(&error))?;
        chart
            .draw_series(LineSeries::new(self.train.iter().copied(), blue.mix(0.25)))
            .map_err(|error| problem(&error))?;
        let wide = ShapeStyle::from(&blue).stroke_width(2);
        chart
            .draw_series(LineSeries::new(self.smooth(self.train.len() / 15), wide))
            .map_err(|error| problem(&error))?
            .label("training rows")
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], wide));
        let wide = ShapeStyle::from(&red).stroke_width(2);
        chart
            .draw_series(LineSeries::new(self.eval.iter().copied(), wide).point_size(4))
            .map_err(|error| problem(&error))?
            .label("held-out phrasings")
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], wide));
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE.mix(0.9))
            .border_style(BLACK.mix(0.2))
            .label_font(("sans-serif", 14))
            .draw()
            .map_err(|error| problem(&error))?;
        area.present().map_err(|error| problem(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_become_a_picture() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let metrics = folder.path().join("metrics.jsonl");
        let rows = "{\"step\":1,\"nll\":3.0,\"loss\":0.5}\n{\"step\":2,\"nll\":2.0}\n\
                    {\"step\":2,\"eval_nll\":2.5,\"eval_loss\":0.4}\n";
        std::fs::write(&metrics, rows).expect("a file");
        let curve = Curve::read(&metrics).expect("metrics");
        assert_eq!(curve.train, [(1.0, 3.0), (2.0, 2.0)]);
        assert_eq!(curve.eval, [(2.0, 2.5)]);
        assert_eq!(curve.held_out(), None, "there is no evaluation before it");
        let picture = folder.path().join("curve.svg");
        curve.draw(&picture, "a run").expect("drawn");
        let svg = std::fs::read_to_string(picture).expect("a file");
        assert!(svg.starts_with("<svg") && svg.contains("held-out phrasings"));
    }

    #[test]
    fn a_damaged_row_is_named() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let metrics = folder.path().join("metrics.jsonl");
        std::fs::write(&metrics, "{\"step\":1}\n{\"st").expect("a file");
        let error = Curve::read(&metrics).expect_err("damaged");
        assert!(error.contains("line 2"), "{error}");
    }

    #[test]
    fn the_held_out_rows_have_a_beginning_and_an_end() {
        let curve = Curve { train: Vec::new(), eval: vec![(0.0, 2.5), (3.0, 2.0), (6.0, 1.5)] };
        assert_eq!(curve.held_out(), Some((2.5, 1.5)));
    }

    #[test]
    fn smoothing_keeps_the_ends() {
        let curve = Curve { train: (0..5).map(|step| (f64::from(step), f64::from(step))).collect(), eval: Vec::new() };
        assert_eq!(curve.smooth(0), curve.train);
        let means: Vec<f64> = curve.smooth(3).into_iter().map(|point| point.1).collect();
        assert_eq!(means, [0.5, 1.0, 2.0, 3.0, 3.5]);
    }
}
