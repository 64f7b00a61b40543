//! Charts as SVG, for a page that is light or dark.
//!
//! A chart is drawn in the colours of a light page. [`style`] has those of a dark one: rules that find each colour by
//! its name in the drawing.

use std::ops::{Range, RangeInclusive};

use plotters::coord::Shift;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::figures::{Grouped, Micros};

/// What is around the curves.
#[derive(Clone, Debug)]
pub(crate) struct Frame<'a> {
    /// What the chart shows, for those who cannot see it.
    pub(crate) title: &'a str,
    /// Width and height in pixels; of a narrow one the text is as large as of a wide one.
    pub(crate) size: (u32, u32),
    /// From left to right.
    pub(crate) x: Axis,
    /// From below.
    pub(crate) y: Axis,
}

/// A scale, and what is written at it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Axis {
    /// What is written along it, if anything.
    name: &'static str,
    scale: Scale,
    /// Where it begins and ends.
    range: (f64, f64),
    /// Values and their labels.
    ticks: Vec<(f64, String)>,
}

/// How a value becomes a distance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scale {
    Linear,
    Log,
    /// Of a quantile: the number of its nines, so that 0.9, 0.99 and 0.999 are equally far apart.
    Nines,
}

/// A curve.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// What it is called in the legend; a chart with a single curve needs no legend.
    pub(crate) name: &'static str,
    /// Its colour.
    pub(crate) colour: Colour,
    /// Its points, from left to right. What its axes cannot show, such as the 0 of a logarithmic one, is left out.
    pub(crate) points: Vec<(f64, f64)>,
    /// Whether each point is a dot of its own.
    pub(crate) is_dots: bool,
}

/// A colour that a dark page replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Colour {
    /// Text and axes.
    Ink,
    /// Lines behind the curves.
    Grid,
    Blue,
    Amber,
    Red,
}

/// Draws curves in a frame.
pub(crate) fn lines(frame: &Frame<'_>, lines: &[Line]) -> String {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, frame.size).into_drawing_area();
        draw(frame, lines, &area).expect("a string takes every drawing");
        area.present().expect("a string takes every drawing");
    }
    let title = maud::html! { (frame.title) }.into_string();
    svg.replacen("<svg ", &format!("<svg role=\"img\" aria-label=\"{title}\" "), 1)
}

/// The rules of CSS that give the charts of a page the colours of a dark one.
pub(crate) fn style() -> String {
    let mut rules = String::from("@media (prefers-color-scheme: dark) {\n");
    for colour in Colour::ALL {
        let (light, dark) = colour.shades();
        for property in ["fill", "stroke"] {
            rules.push_str(&format!("svg [{property}=\"{}\"] {{ {property}: {} }}\n", hex(light), hex(dark)));
        }
    }
    rules.push_str("}\n");
    rules
}

impl Axis {
    /// From 0 to the maximum or a little beyond; `label` writes the values.
    pub(crate) fn linear(max: f64, label: impl Fn(f64) -> String) -> Self {
        let step = step(max / LINEAR_TICKS);
        let count = (max / step).ceil().max(1.0);
        let values =
            (0_u32..).map(|at| f64::from(at) * step).take_while(|value| *value < (count + 0.5) * step);
        let ticks = values.map(|value| (value, label(value))).collect();
        Self { name: "", scale: Scale::Linear, range: (0.0, count * step), ticks }
    }

    /// From 0 to exactly so many seconds.
    pub(crate) fn seconds(max: f64) -> Self {
        let mut axis = Self::linear(max, |value| Grouped(value).to_string());
        axis.name = "seconds";
        if max < LINEAR_TICKS {
            axis.ticks.retain(|(value, _)| value.fract() == 0.0);
        }
        axis.ticks.retain(|&(value, _)| value <= max);
        axis.range.1 = max;
        axis
    }

    /// Latencies in microseconds: on a scale of their logarithms when they are far apart.
    pub(crate) fn latency(values: impl Iterator<Item = f64> + Clone) -> Self {
        let max = values.clone().fold(1.0, f64::max);
        let min = values.filter(|&value| value > 0.0).fold(max, f64::min);
        let label = |us: f64| Micros(us).to_string();
        if max / min < LOG_FROM {
            return Self::linear(max, label);
        }
        // The ends of the decades, and what is between them as far as there is room.
        let steps: &[f64] = if max / min < 1e3 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let decade = |exponent| steps.iter().map(move |step| step * 10_f64.powi(exponent));
        let values: Vec<_> = DECADES_US.flat_map(decade).collect();
        let from = values.iter().copied().filter(|&value| value <= min).fold(0.0, f64::max);
        let to = values.iter().copied().filter(|&value| value >= max).fold(f64::INFINITY, f64::min);
        let ticks = values.iter().filter(|value| (from..=to).contains(*value));
        Self {
            name: "",
            scale: Scale::Log,
            range: (from, to),
            ticks: ticks.map(|&value| (value, label(value))).collect(),
        }
    }

    /// Percentiles, with as many nines as so many values have.
    pub(crate) fn percentiles(count: u64) -> Self {
        let max = 1.0 - 1.0 / count.max(10) as f64;
        let percents = ["0", "50", "90", "99", "99.9", "99.99", "99.999", "99.9999", "99.99999"];
        let ticks = percents.iter().map(|percent| {
            let value = percent.parse::<f64>().expect("a number") / 100.0;
            (value, format!("{percent} %"))
        });
        let ticks = ticks.filter(|&(value, _)| value <= max).collect();
        Self { name: "percentile", scale: Scale::Nines, range: (0.0, max), ticks }
    }

    /// With only those labels that do not run into each other when it lies and is that long.
    fn thinned(mut self, length_px: i32) -> Self {
        let mut free_from = i32::MIN;
        for at in 0..self.ticks.len() {
            let middle = self.map(&self.ticks[at].0, (0, length_px));
            let label = &mut self.ticks[at].1;
            let half = width_px(label) / 2;
            if middle - half < free_from {
                label.clear();
            } else {
                free_from = middle + half + LETTER_PX;
            }
        }
        self
    }

    /// Its end.
    pub(crate) const fn max(&self) -> f64 {
        self.range.1
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    #[expect(clippy::cast_possible_truncation, reason = "a chart has some hundred pixels")]
    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        let [at, min, max] = [*value, self.range.0, self.range.1].map(|value| self.scale.apply(value));
        from + ((at - min) / (max - min) * f64::from(to - from)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _hint: Hint) -> Vec<f64> {
        self.ticks.iter().map(|(at, _)| *at).collect()
    }

    fn range(&self) -> Range<f64> {
        self.range.0..self.range.1
    }
}

impl ValueFormatter<f64> for Axis {
    fn format(value: &f64) -> String {
        value.to_string()
    }

    fn format_ext(&self, value: &f64) -> String {
        // It is asked for the key points only.
        let tick = self.ticks.iter().find(|(at, _)| at == value);
        tick.map_or_else(|| Self::format(value), |(_, label)| label.clone())
    }
}

impl Scale {
    fn apply(self, value: f64) -> f64 {
        match self {
            Self::Linear => value,
            Self::Log => value.log10(),
            Self::Nines => -(1.0 - value).log10(),
        }
    }
}

impl Colour {
    const ALL: [Self; 5] = [Self::Ink, Self::Grid, Self::Blue, Self::Amber, Self::Red];

    /// On a light page, and on a dark one.
    const fn shades(self) -> (RGBColor, RGBColor) {
        match self {
            Self::Ink => (RGBColor(0x4A, 0x52, 0x5E), RGBColor(0xB4, 0xBC, 0xC8)),
            Self::Grid => (RGBColor(0xE3, 0xE6, 0xEA), RGBColor(0x2C, 0x33, 0x3D)),
            Self::Blue => (RGBColor(0x1F, 0x6F, 0xD0), RGBColor(0x5C, 0xA9, 0xFF)),
            Self::Amber => (RGBColor(0xC7, 0x7A, 0x00), RGBColor(0xF0, 0xB4, 0x3C)),
            Self::Red => (RGBColor(0xC9, 0x2A, 0x3C), RGBColor(0xFF, 0x7B, 0x86)),
        }
    }

    const fn light(self) -> RGBColor {
        self.shades().0
    }
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

type Drawn = Result<(), Box<dyn std::error::Error>>;

fn draw(frame: &Frame<'_>, lines: &[Line], area: &Area<'_>) -> Drawn {
    let Frame { x, y, .. } = frame;
    let has_legend = lines.len() > 1;
    if has_legend {
        draw_legend(lines, area)?;
    }
    let text = ("sans-serif", TEXT_PX).into_font().color(&Colour::Ink.light());
    let plot_px = frame.size.0 as i32 - Y_LABELS_PX - RIGHT_PX;
    let mut chart = ChartBuilder::on(area)
        .margin_top(if has_legend { LEGEND_PX } else { MARGIN_PX })
        .margin_right(RIGHT_PX)
        .x_label_area_size(X_LABELS_PX)
        .y_label_area_size(Y_LABELS_PX)
        .build_cartesian_2d(x.clone().thinned(plot_px), y.clone())?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(Colour::Grid.light())
        .axis_style(Colour::Grid.light())
        .label_style(text)
        .x_labels(x.ticks.len())
        .y_labels(y.ticks.len())
        .x_desc(x.name)
        .draw()?;
    for line in lines {
        let is_there =
            |&(at, value): &(f64, f64)| x.scale.apply(at).is_finite() && y.scale.apply(value).is_finite();
        let points: Vec<_> = line.points.iter().copied().filter(is_there).collect();
        let colour = line.colour.light();
        // Of a single point no line can be seen.
        if line.is_dots || points.len() == 1 {
            chart.draw_series(points.iter().map(|&point| Circle::new(point, DOT_PX, colour.filled())))?;
        } else {
            chart.draw_series(LineSeries::new(points, colour.stroke_width(LINE_PX)))?;
        }
    }
    Ok(())
}

/// Names of the curves side by side at the top, each behind its colour.
fn draw_legend(lines: &[Line], area: &Area<'_>) -> Drawn {
    let text = ("sans-serif", TEXT_PX).into_font().color(&Colour::Ink.light());
    let text = text.pos(Pos::new(HPos::Left, VPos::Center));
    let middle = LEGEND_PX / 2 - 2;
    let mut left = Y_LABELS_PX;
    for line in lines {
        let box_ = [(left, middle - 4), (left + 14, middle + 4)];
        area.draw(&Rectangle::new(box_, line.colour.light().filled()))?;
        area.draw(&Text::new(line.name, (left + 20, middle), text.clone()))?;
        left += 20 + width_px(line.name) + 22;
    }
    Ok(())
}

/// How wide a text is, about.
fn width_px(text: &str) -> i32 {
    text.chars().map(|_| LETTER_PX).sum()
}

/// The next larger one of 1, 2 and 5 times a power of ten.
fn step(at_least: f64) -> f64 {
    let decade = 10_f64.powf(at_least.max(1e-9).log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * decade >= at_least);
    factor.unwrap_or(10.0) * decade
}

fn hex(RGBColor(red, green, blue): RGBColor) -> String {
    format!("#{red:02X}{green:02X}{blue:02X}")
}

/// Ticks of a linear scale, or somewhat fewer.
const LINEAR_TICKS: f64 = 6.0;

/// Those of a latency: from below a nanosecond to beyond the largest number of them.
const DECADES_US: RangeInclusive<i32> = -4..=17;

/// How many times the smallest value the largest is when a scale becomes logarithmic.
const LOG_FROM: f64 = 8.0;

/// As the library has it: a quarter more than what is drawn.
const TEXT_PX: i32 = 16;
/// The width of a letter, about.
const LETTER_PX: i32 = 7;
const LINE_PX: u32 = 2;
const DOT_PX: i32 = 3;
const MARGIN_PX: i32 = 10;
const LEGEND_PX: i32 = 30;
/// Half of the last label may stand out.
const RIGHT_PX: i32 = 30;
const X_LABELS_PX: i32 = 44;
const Y_LABELS_PX: i32 = 72;

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|(_, label)| label.as_str()).collect()
    }

    #[test]
    fn scales_have_round_ticks() {
        let rate = Axis::linear(123_456.0, |value| Grouped(value).to_string());
        assert_eq!(labels(&rate), ["0", "50,000", "100,000", "150,000"]);
        assert_eq!(labels(&Axis::seconds(10.0)), ["0", "2", "4", "6", "8", "10"]);
        assert_eq!(Axis::seconds(9.5).range, (0.0, 9.5));
        let narrow = Axis::percentiles(50_000).thinned(200);
        assert_eq!(labels(&narrow), ["0 %", "", "90 %", "99 %", "99.9 %", ""]);
        assert_eq!(labels(&Axis::seconds(0.4)), ["0"]);
        let near = Axis::latency([80.0, 90.0].into_iter());
        assert_eq!((near.scale, labels(&near)[0]), (Scale::Linear, "0 µs"));
        let far = Axis::latency([80.0, 4_000.0].into_iter());
        assert_eq!(labels(&far), ["50 µs", "100 µs", "200 µs", "500 µs", "1 ms", "2 ms", "5 ms"]);
        let farther = Axis::latency([80.0, 400_000.0].into_iter());
        assert_eq!(labels(&farther), ["10 µs", "100 µs", "1 ms", "10 ms", "100 ms", "1 s"]);
        assert_eq!(labels(&Axis::percentiles(50_000)), ["0 %", "50 %", "90 %", "99 %", "99.9 %", "99.99 %"]);
        // Of nothing too.
        for axis in [Axis::latency([].into_iter()), Axis::latency([0.0].into_iter()), Axis::percentiles(0)] {
            assert!(axis.range.0 < axis.range.1 && axis.range.1.is_finite(), "{axis:?}");
        }
    }

    #[test]
    fn a_chart_has_its_curves_and_escapes_its_title() {
        let frame = Frame {
            title: "a \"<b>\"",
            size: (640, 300),
            x: Axis::seconds(3.0),
            y: Axis::latency([1.0, 100.0].into_iter()),
        };
        let line = |points: &[(f64, f64)], is_dots| Line {
            name: "p50 & more",
            colour: Colour::Red,
            points: points.to_vec(),
            is_dots,
        };
        let svg = lines(
            &frame,
            &[line(&[(0.5, 1.0), (1.5, f64::NAN), (2.5, 100.0)], false), line(&[(1.0, 10.0)], true)],
        );
        assert_eq!(svg.matches("<svg ").count(), 1);
        assert!(svg.contains("aria-label=\"a &quot;&lt;b&gt;&quot;\""), "{svg}");
        assert!(svg.contains("p50 &amp; more") && svg.trim_end().ends_with("</svg>"), "{svg}");
        let lines = svg.lines().filter(|line| line.starts_with("<polyline ") && line.contains("#C92A3C"));
        assert_eq!((lines.count(), svg.matches("<circle ").count()), (1, 1), "{svg}");
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        for attribute in ["stroke=\"#C92A3C\"", "fill=\"#C92A3C\"", "fill=\"#4A525E\""] {
            assert!(svg.contains(attribute) && style().contains(attribute), "{attribute} in {svg}");
        }
    }
}
