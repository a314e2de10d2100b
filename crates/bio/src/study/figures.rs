//! The pictures: what is learnt by the untuned model's p, and learning against forgetting.

use plotters::coord::Shift;
use plotters::prelude::*;

use super::compare::{P_BINS, Summary};
use super::regimes::BUDGET;
use crate::error::{BioError, Result};

/// Colours that people with colour blindness tell apart (Okabe and Ito), then six more.
const COLOURS: [RGBColor; 14] = [
    RGBColor(0x80, 0x80, 0x80),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x56, 0xb4, 0xe9),
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0x00, 0x00, 0x00),
    RGBColor(0x8c, 0x56, 0x4b),
    RGBColor(0x17, 0xbe, 0xcf),
    RGBColor(0xbc, 0xbd, 0x22),
    RGBColor(0x94, 0x67, 0xbd),
    RGBColor(0xe3, 0x77, 0xc2),
    RGBColor(0x9a, 0xcd, 0x32),
];

fn problem(error: impl std::fmt::Display) -> BioError {
    BioError::data(format!("a picture cannot be drawn: {error}"))
}

/// An area, white, of one size.
fn area(svg: &mut String) -> Result<DrawingArea<SVGBackend<'_>, Shift>> {
    let area = SVGBackend::with_string(svg, (860, 460)).into_drawing_area();
    area.fill(&WHITE).map_err(problem)?;
    Ok(area)
}

/// Share of answer tokens that are the likeliest, by bin of the untuned model's p: a line an arm.
/// `None` where nothing is there to draw.
pub(super) fn learnt(summary: &Summary) -> Result<Option<String>> {
    if summary.lines.is_empty() {
        return Ok(None);
    }
    let mut svg = String::new();
    {
        let area = area(&mut svg)?;
        let last = P_BINS.len() as f64 - 1.0;
        let mut chart = ChartBuilder::on(&area)
            .caption("Answer tokens learnt, by the untuned model's p of them", ("sans-serif", 18))
            .margin(10)
            .x_label_area_size(46)
            .y_label_area_size(56)
            .build_cartesian_2d(-0.2..last + 1.4, 0.0..1.0)
            .map_err(problem)?;
        let words = |x: &f64| {
            let whole = (x - x.round()).abs() < 1e-6 && *x >= 0.0;
            P_BINS.get(x.round() as usize).filter(|_| whole).map_or_else(String::new, |(_, word)| (*word).to_owned())
        };
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .x_labels(16)
            .x_label_formatter(&words)
            .y_desc("share that is the likeliest token")
            .x_desc("p before tuning")
            .draw()
            .map_err(problem)?;
        for (line, colour) in summary.lines.iter().zip(COLOURS.iter().cycle()) {
            let points = || line.shares.iter().enumerate().filter_map(|(x, share)| Some((x as f64, (*share)?)));
            chart
                .draw_series(LineSeries::new(points().map(|(x, share)| (x, share.value)), colour.stroke_width(2)))
                .map_err(problem)?
                .label(line.name.as_str())
                .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
            let ranges = points().filter_map(|(x, share)| Some((x, share.range?)));
            let bars = ranges.map(|(x, (low, high))| PathElement::new([(x, low), (x, high)], colour.mix(0.5)));
            chart.draw_series(bars).map_err(problem)?;
        }
        legend(&mut chart)?;
        area.present().map_err(problem)?;
    }
    Ok(Some(svg))
}

fn legend<'c, X: Ranged<ValueType = f64>, Y: Ranged<ValueType = f64>>(
    chart: &mut ChartContext<'c, SVGBackend<'c>, Cartesian2d<X, Y>>,
) -> Result<()> {
    let labels = chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .border_style(BLACK.mix(0.2))
        .background_style(WHITE.mix(0.85))
        .draw();
    labels.map_err(problem)
}

/// Top-1 of the answers against how much less likely English became: a point a learning rate and
/// number of passes, the best ones towards the upper left. `None` where nothing is there to draw.
pub(super) fn forgetting(summary: &Summary) -> Result<Option<String>> {
    let mut names: Vec<&str> = summary.curve.iter().map(|point| point.name).collect();
    names.dedup();
    if names.is_empty() {
        return Ok(None);
    }
    let forgotten = || summary.curve.iter().map(|point| point.forgotten);
    let (low, high) = forgotten().fold((0.0f64, BUDGET * 1.5), |(low, high), x| (low.min(x), high.max(x)));
    let mut svg = String::new();
    {
        let area = area(&mut svg)?;
        let mut chart = ChartBuilder::on(&area)
            .caption("Learning against forgetting, over learning rate and steps", ("sans-serif", 18))
            .margin(10)
            .x_label_area_size(46)
            .y_label_area_size(56)
            .build_cartesian_2d(low - 0.01..high * 1.1, 0.0..1.0)
            .map_err(problem)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .x_desc("rise of English's NLL at a fitted temperature (nats a token)")
            .y_desc("share of answer tokens learnt")
            .draw()
            .map_err(problem)?;
        chart
            .draw_series(std::iter::once(PathElement::new([(BUDGET, 0.0), (BUDGET, 1.0)], BLACK.mix(0.3))))
            .map_err(problem)?;
        for (name, colour) in names.into_iter().zip(COLOURS.iter().skip(1).cycle()) {
            let points = summary.curve.iter().filter(|point| point.name == name);
            chart
                .draw_series(points.map(|point| Circle::new((point.forgotten, point.learnt), 5, colour.filled())))
                .map_err(problem)?
                .label(name)
                .legend(|(x, y)| Circle::new((x + 9, y), 5, colour.filled()));
        }
        legend(&mut chart)?;
        area.present().map_err(problem)?;
    }
    Ok(Some(svg))
}
