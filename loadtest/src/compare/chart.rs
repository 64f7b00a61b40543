//! Bars with their intervals, as SVG.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// One bar for each server, one below the other.
#[derive(Clone, Debug)]
pub(crate) struct Chart {
    /// What it shows.
    pub(crate) title: String,
    /// What the bars' length is.
    pub(crate) axis: String,
    /// At least one.
    pub(crate) bars: Vec<Bar>,
    /// Whether the bars are ratios: there is a line at 1.
    pub(crate) is_ratio: bool,
}

/// One bar.
#[derive(Clone, Debug)]
pub(crate) struct Bar {
    /// Whose it is.
    pub(crate) name: String,
    /// Its length, 0 or above.
    pub(crate) value: f64,
    /// The ends of its interval, where it has one; none of them below 0.
    pub(crate) interval: Option<[f64; 2]>,
    /// What stands at its right.
    pub(crate) note: String,
    /// Whether the others are compared with it.
    pub(crate) is_reference: bool,
}

/// Draws it, on a ground of its own, so that it can be read in light and dark documents.
pub(crate) fn draw(chart: &Chart) -> String {
    let mut svg = String::new();
    {
        let backend = SVGBackend::with_string(&mut svg, (WIDTH, height(chart)));
        let root = backend.into_drawing_area();
        draw_on(&root, chart).expect("a string takes what is written");
    }
    svg
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

fn draw_on<'a>(root: &Area<'a>, chart: &Chart) -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
    root.fill(&GROUND)?;
    let text = |size: f64, color: RGBColor, h: HPos| {
        (FONT, size * EM).into_font().color(&color).pos(Pos::new(h, VPos::Center))
    };
    root.draw(&Text::new(chart.title.as_str(), (PAD, TITLE_Y), text(15.0, INK, HPos::Left)))?;
    root.draw(&Text::new(chart.axis.as_str(), (PAD, TITLE_Y + 20), text(12.0, MUTED, HPos::Left)))?;

    let names = chart.bars.iter().map(|bar| bar.name.chars().count()).max().unwrap_or_default();
    let notes = chart.bars.iter().map(|bar| bar.note.chars().count()).max().unwrap_or_default();
    let left = u32::try_from(names).unwrap_or(u32::MAX).saturating_mul(8).min(WIDTH / 4) + 16;
    let right = u32::try_from(notes).unwrap_or(u32::MAX).saturating_mul(7).min(WIDTH / 2) + 20;
    let longest =
        chart.bars.iter().map(|bar| bar.interval.map_or(bar.value, |[_, high]| high)).fold(0.0, f64::max);
    let to = if chart.is_ratio { longest.max(1.0) } else { longest } * 1.02;
    // Where every figure is 0 there is still an axis.
    let to = if to > 0.0 { to } else { 1.0 };
    let count = chart.bars.len() as f64;
    let mut field = ChartBuilder::on(root)
        .margin_top(HEADER)
        .margin_right(right)
        .set_label_area_size(LabelAreaPosition::Left, left)
        .set_label_area_size(LabelAreaPosition::Bottom, FOOTER)
        .build_cartesian_2d(0.0..to, count..0.0)?;
    field
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .max_light_lines(0)
        .bold_line_style(GRID)
        .axis_style(GRID)
        .x_labels(6)
        .x_label_formatter(&|value| format!("{}", (value * 1e6).round() / 1e6))
        .x_label_style((FONT, 12.0 * EM).into_font().color(&MUTED))
        .draw()?;
    for (at, bar) in chart.bars.iter().enumerate() {
        let middle = at as f64 + 0.5;
        let color = if bar.is_reference { REFERENCE } else { BAR };
        let rectangle =
            Rectangle::new([(0.0, middle - THICKNESS), (bar.value, middle + THICKNESS)], color.filled());
        let whisker = |from: (f64, f64), to: (f64, f64)| PathElement::new([from, to], INK.stroke_width(1));
        field.draw_series([rectangle])?;
        if let Some([low, high]) = bar.interval {
            field.draw_series([
                whisker((low, middle), (high, middle)),
                whisker((low, middle - CAP), (low, middle + CAP)),
                whisker((high, middle - CAP), (high, middle + CAP)),
            ])?;
        }
        let (zero, y) = field.backend_coord(&(0.0, middle));
        let (end, _) = field.backend_coord(&(to, middle));
        root.draw(&Text::new(bar.name.as_str(), (zero - 8, y), text(13.0, INK, HPos::Right)))?;
        root.draw(&Text::new(bar.note.as_str(), (end + 12, y), text(13.0, INK, HPos::Left)))?;
    }
    if chart.is_ratio {
        field.draw_series([PathElement::new([(1.0, 0.0), (1.0, count)], REFERENCE.stroke_width(1))])?;
    }
    root.present()
}

fn height(chart: &Chart) -> u32 {
    HEADER + FOOTER + u32::try_from(chart.bars.len()).unwrap_or(u32::MAX / ROW).saturating_mul(ROW)
}

const FONT: &str = "system-ui, sans-serif";

/// What the SVG backend divides a font's size by.
const EM: f64 = 1.24;

// A style sheet around a chart knows the colours by these values.
const GROUND: RGBColor = RGBColor(0xff, 0xff, 0xff);
const INK: RGBColor = RGBColor(0x1f, 0x23, 0x28);
const MUTED: RGBColor = RGBColor(0x59, 0x63, 0x6e);
const GRID: RGBColor = RGBColor(0xd8, 0xde, 0xe4);
const BAR: RGBColor = RGBColor(0x4c, 0x8b, 0xd6);
const REFERENCE: RGBColor = RGBColor(0x9a, 0xa4, 0xaf);

/// In pixels, as all that follows to `PAD`.
const WIDTH: u32 = 860;
const HEADER: u32 = 62;
const FOOTER: u32 = 30;
const ROW: u32 = 28;
const TITLE_Y: i32 = 20;
const PAD: i32 = 14;

/// Half of a bar, and of the mark at an end of its interval, of a row.
const THICKNESS: f64 = 0.32;
const CAP: f64 = 0.14;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_server_has_a_bar_and_an_interval() {
        let bar = |name: &str, value, interval| Bar {
            name: name.into(),
            value,
            interval,
            note: "a & b".into(),
            is_reference: name == "raw",
        };
        let bars = vec![
            bar("raw", 1.0, Some([1.0, 1.0])),
            bar("ring", 0.5, Some([0.4, 0.7])),
            bar("few", 0.7, None),
        ];
        let svg = draw(&Chart { title: "t <x>".into(), axis: "µs".into(), bars, is_ratio: true });
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert!(
            svg.contains("t &lt;x&gt;") && svg.contains("a &amp; b") && svg.contains(">\nring\n<"),
            "{svg}"
        );
        // Three bars, three strokes for each of two intervals, and the line at 1.
        assert_eq!(svg.matches("fill=\"#4C8BD6\"").count(), 2);
        assert_eq!(svg.matches("fill=\"#9AA4AF\"").count(), 1);
        assert_eq!(svg.matches("stroke=\"#1F2328\"").count(), 6);
        assert_eq!(svg.matches("stroke=\"#9AA4AF\"").count(), 1);
    }

    #[test]
    fn a_chart_of_nothing_but_zeros_is_drawn() {
        let bar =
            Bar { name: "a".into(), value: 0.0, interval: None, note: String::new(), is_reference: false };
        draw(&Chart { title: String::new(), axis: String::new(), bars: vec![bar], is_ratio: false });
    }
}
