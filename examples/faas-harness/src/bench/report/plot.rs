//! Plots as SVG: bars where an experiment varies nothing, lines where it does.

use std::fmt::Write;

use crate::bench::figures::Axis;

const WIDTH: f64 = 760.0;
const LABELS: f64 = 260.0;
const BAR: f64 = 22.0;
const LINE_HEIGHT: f64 = 300.0;
const LABEL_HEIGHT: f64 = 18.0;
const MARGIN: f64 = 50.0;
const COLOURS: [&str; 8] = [
    "#3366cc", "#dc8a1e", "#2a9d5c", "#b5384b", "#7b52ab", "#8a6d3b", "#c75b9b", "#5f6b7a",
];
const PAPER_COLOUR: &str = "#b8bfca";

/// One bar.
pub struct Bar {
    /// What it stands for.
    pub label: String,
    /// Its length.
    pub value: f64,
    /// Half of the confidence interval's width.
    pub spread: f64,
    /// Whether it is a paper's.
    pub published: bool,
}

/// One line.
pub struct Line {
    /// What it stands for.
    pub label: String,
    /// Its points, by ascending x: x, y, and half of the confidence interval's width.
    pub points: Vec<(f64, f64, f64)>,
    /// Whether it is a paper's, and then only points.
    pub published: bool,
}

/// Text that stands for itself in HTML.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// Horizontal bars, one below the other.
pub fn bars(bars: &[Bar], unit: &str) -> String {
    let longest = bars
        .iter()
        .map(|bar| bar.value + bar.spread)
        .fold(f64::MIN_POSITIVE, f64::max);
    let scale = (WIDTH - LABELS - 110.0) / longest;
    let height = BAR * bars.len() as f64 + 6.0;
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {height}\">");
    for (number, bar) in bars.iter().enumerate() {
        let top = BAR * number as f64 + 4.0;
        let (middle, length) = (top + 8.0, (bar.value * scale).max(0.0));
        let colour = if bar.published { PAPER_COLOUR } else { COLOURS[0] };
        // Writing to a string cannot fail.
        let _ = write!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{LABELS}\" y=\"{top:.1}\" width=\"{length:.1}\" height=\"16\" fill=\"{colour}\"/>\
             <line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{middle:.1}\" y2=\"{middle:.1}\" stroke=\"#223\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\">{:.4} {unit}</text>",
            LABELS - 8.0,
            middle + 4.0,
            escape(&bar.label),
            (LABELS + length - bar.spread * scale).max(LABELS),
            LABELS + length + bar.spread * scale,
            LABELS + length + bar.spread * scale + 6.0,
            middle + 4.0,
            Significant(bar.value),
        );
    }
    svg + "</svg>"
}

/// Lines over a common axis.
pub fn lines(lines: &[Line], unit: &str, axis: Axis) -> String {
    let points = || lines.iter().flat_map(|line| &line.points);
    let right = points().map(|point| point.0).fold(1.0, f64::max);
    let top = points()
        .map(|point| point.1 + point.2)
        .fold(f64::MIN_POSITIVE, f64::max);
    let share = |value: f64| match axis {
        Axis::Linear => value / right,
        // The first step is that from nothing to one.
        Axis::PowersOfTwo => (value.max(0.5).log2() + 1.0) / (right.log2() + 1.0),
    };
    let x = |value: f64| MARGIN + share(value) * (WIDTH - LABELS - MARGIN);
    let y = |value: f64| LINE_HEIGHT - 30.0 - value / top * (LINE_HEIGHT - 50.0);
    // Each line has a label beside the plot.
    let height = LINE_HEIGHT.max(20.0 + LABEL_HEIGHT * lines.len() as f64);
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {height}\">");
    let _ = write!(
        svg,
        "<path d=\"M{MARGIN} 10V{0}H{1}\" fill=\"none\" stroke=\"#889\"/>\
         <text x=\"4\" y=\"22\">{2:.4} {unit}</text><text x=\"{1}\" y=\"{3}\" text-anchor=\"end\">{right}</text>",
        LINE_HEIGHT - 30.0,
        WIDTH - LABELS,
        Significant(top),
        LINE_HEIGHT - 12.0,
    );
    for (number, line) in lines.iter().enumerate() {
        let colour = if line.published {
            PAPER_COLOUR
        } else {
            COLOURS[number % COLOURS.len()]
        };
        if !line.published {
            let places: Vec<String> = line
                .points
                .iter()
                .map(|point| format!("{:.1},{:.1}", x(point.0), y(point.1)))
                .collect();
            let _ = write!(
                svg,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\"/>",
                places.join(" ")
            );
        }
        for (across, up, spread) in &line.points {
            let (across, high, low) = (x(*across), y(up + spread), y((up - spread).max(up.min(0.0))));
            let _ = write!(
                svg,
                "<circle cx=\"{across:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"/>\
                 <path d=\"M{across:.1} {high:.1}V{low:.1}\" stroke=\"{colour}\"/>",
                y(*up)
            );
        }
        let _ = write!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\">{}</text>",
            WIDTH - LABELS + 12.0,
            20.0 + LABEL_HEIGHT * number as f64,
            escape(&line.label)
        );
    }
    svg + "</svg>"
}

/// A number with as many decimals as it takes to tell it from its neighbours.
struct Significant(f64);

impl std::fmt::Display for Significant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let decimals = if self.0.abs() >= 100.0 {
            0
        } else if self.0.abs() >= 1.0 {
            2
        } else {
            4
        };
        write!(f, "{:.decimals$}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_cannot_break_out_of_the_page() {
        let bar = Bar {
            label: "<script>".to_owned(),
            value: 1.0,
            spread: 0.0,
            published: false,
        };
        let svg = bars(&[bar], "ms");
        assert!(svg.contains("&lt;script&gt;") && !svg.contains("<script>"));
    }

    #[test]
    fn a_line_lies_within_its_plot() {
        let line = Line {
            label: "a".to_owned(),
            points: vec![(10.0, 5.0, 0.0), (100.0, 50.0, 0.0)],
            published: false,
        };
        let svg = lines(&[line], "ms", Axis::Linear);
        assert!(svg.contains("points=\"95.0,245.0 500.0,20.0\""), "{svg}");
    }

    #[test]
    fn powers_of_two_are_evenly_apart() {
        let line = Line {
            label: "a".to_owned(),
            points: vec![(1.0, 1.0, 0.0), (2.0, 1.0, 0.0), (4.0, 1.0, 0.0)],
            published: false,
        };
        let svg = lines(&[line], "1/s", Axis::PowersOfTwo);
        assert!(svg.contains("points=\"200.0,20.0 350.0,20.0 500.0,20.0\""), "{svg}");
    }
}
