//! A picture of packets and of TCP per second, as SVG.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::kind::{Cable, Kind};
use super::report::{Case, Metric, Report};

/// The pictures, row by row.
const PANELS: [(Case, Metric); 8] = [
    (Case::FlowsUp, Metric::Rate),
    (Case::FlowsDown, Metric::Rate),
    (Case::Forwards, Metric::Rate),
    (Case::NetworksUp, Metric::Rate),
    (Case::StreamsUp(Cable::Veth), Metric::GigabitsOfOne),
    (Case::StreamsDown(Cable::Veth), Metric::GigabitsOfOne),
    (Case::StreamsUp(Cable::Tap), Metric::GigabitsOfOne),
    (Case::StreamsDown(Cable::Tap), Metric::GigabitsOfOne),
];
/// Pictures side by side.
const COLUMNS: usize = 4;
/// Of one picture, without margins.
const WIDTH: f64 = 260.0;
const HEIGHT: f64 = 240.0;
/// Room for numbers and titles.
const MARGIN: f64 = 60.0;
/// Lines across.
const GRID: u32 = 4;

/// Draws the medians over flows, published ports, networks and streams. A case that was not measured
/// has no picture.
pub fn plot(report: &Report) -> String {
    let panels: Vec<_> = PANELS
        .into_iter()
        .map(|(case, metric)| (case, metric, report.curves(case, metric)))
        .filter(|(.., curves)| !curves.is_empty())
        .collect();
    let rows = panels.len().div_ceil(COLUMNS).max(1) as f64;
    let width = panels.len().clamp(1, COLUMNS) as f64 * (WIDTH + MARGIN) + MARGIN;
    let height = rows * (HEIGHT + 2.0 * MARGIN) + MARGIN;
    // Writing to a string does not fail.
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (number, (case, metric, curves)) in panels.iter().enumerate() {
        let left = MARGIN + (number % COLUMNS) as f64 * (WIDTH + MARGIN);
        let top = MARGIN + (number / COLUMNS) as f64 * (HEIGHT + 2.0 * MARGIN);
        let _ = writeln!(svg, "<g transform=\"translate({left} {top})\">");
        svg += &panel(*case, *metric, curves);
        svg += "</g>\n";
    }
    svg += &legend(height - MARGIN / 2.0);
    svg + "</svg>\n"
}

/// One picture: the number on a logarithmic axis, the metric from zero.
fn panel(case: Case, metric: Metric, curves: &BTreeMap<&'static str, Vec<(u64, f64)>>) -> String {
    let unit = metric.unit().split(' ').next().unwrap_or_default();
    let points = || curves.values().flatten();
    let most = points()
        .map(|(_, rate)| *rate)
        .fold(0.0, f64::max)
        .ceil()
        .max(1.0);
    let last = points().map(|(at, _)| *at).max().unwrap_or(1).max(2);
    let x = |at: u64| (at.max(1) as f64).ln() / (last as f64).ln() * WIDTH;
    let y = |rate: f64| HEIGHT - rate / most * HEIGHT;
    let mut svg = format!(
        "<text x=\"{}\" y=\"-14\" text-anchor=\"middle\">{}</text>\n",
        WIDTH / 2.0,
        case.name()
    );
    for line in 0..=GRID {
        let rate = most * f64::from(line) / f64::from(GRID);
        let y = y(rate);
        let _ = writeln!(
            svg,
            "<line x2=\"{WIDTH}\" y1=\"{y}\" y2=\"{y}\" stroke=\"#ddd\"/>\
             <text x=\"-6\" y=\"{}\" text-anchor=\"end\">{rate:.1}</text>",
            y + 4.0
        );
    }
    let mut numbers: Vec<_> = points().map(|(at, _)| *at).collect();
    numbers.sort_unstable();
    numbers.dedup();
    for at in numbers {
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{at}</text>",
            x(at),
            HEIGHT + 16.0
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\
         <text x=\"-34\" y=\"{}\" text-anchor=\"middle\" transform=\"rotate(-90 -34 {})\">{unit}</text>",
        WIDTH / 2.0,
        HEIGHT + 34.0,
        case.counts(),
        HEIGHT / 2.0,
        HEIGHT / 2.0
    );
    for kind in Kind::ALL {
        let Some(curve) = curves.get(kind.name()) else {
            continue;
        };
        let line: String = curve
            .iter()
            .map(|(at, rate)| format!("{:.1},{:.1} ", x(*at), y(*rate)))
            .collect();
        let colour = colour(kind);
        let _ = writeln!(
            svg,
            "<polyline points=\"{line}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>"
        );
        for (at, rate) in curve {
            let _ = writeln!(
                svg,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"/>",
                x(*at),
                y(*rate)
            );
        }
    }
    svg
}

fn legend(y: f64) -> String {
    let mut svg = String::new();
    for (number, kind) in Kind::ALL.into_iter().enumerate() {
        let x = MARGIN + 90.0 * number as f64;
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"{}\" width=\"12\" height=\"12\" fill=\"{}\"/>\
             <text x=\"{}\" y=\"{y}\">{}</text>",
            y - 10.0,
            colour(kind),
            x + 16.0,
            kind.name()
        );
    }
    svg
}

fn colour(kind: Kind) -> &'static str {
    match kind {
        Kind::Empty => "#bbbbbb",
        Kind::Limit => "#999933",
        Kind::LimitTc => "#ddaa33",
        Kind::Plain => "#4477aa",
        Kind::Nft => "#aa3377",
        Kind::Flowtable => "#66ccee",
        Kind::Netd => "#228833",
        Kind::NetdXdp => "#ee6677",
    }
}
