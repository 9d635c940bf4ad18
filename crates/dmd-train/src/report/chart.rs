//! One figure of several runs as a picture in SVG.

use plotters::coord::ranged1d::{AsRangedCoord, Ranged, ValueFormatter};
use plotters::prelude::*;

use super::curve::Curve;

/// Colours of runs, which are seen on white and on black.
pub(super) const COLOURS: [RGBColor; 8] = [
    RGBColor(0x2a, 0x7a, 0xd8),
    RGBColor(0xd9, 0x66, 0x1f),
    RGBColor(0x2b, 0x9e, 0x62),
    RGBColor(0xb3, 0x4f, 0xa6),
    RGBColor(0x92, 0x80, 0x1c),
    RGBColor(0x1c, 0x98, 0xa8),
    RGBColor(0xc8, 0x3c, 0x4e),
    RGBColor(0x7a, 0x62, 0xd6),
];
/// Colours that the page's style replaces, which says what they are in the light and in the dark.
const INK: RGBColor = RGBColor(1, 1, 1);
const GRID: RGBColor = RGBColor(2, 2, 2);
const BAND: RGBColor = RGBColor(3, 3, 3);
/// The rules of the page's style for them.
pub(super) const STYLE: &str = "svg text{fill:var(--ink)}svg [stroke=\"#010101\"]{stroke:var(--ink)}\
svg [stroke=\"#020202\"]{stroke:var(--grid)}svg [fill=\"#030303\"]{fill:var(--band)}";

/// Size in pixels.
const SIZE: (u32, u32) = (460, 230);
/// Curves of so many points or fewer show them.
const POINTS: usize = 40;
/// A vertical axis of positive values that span this factor is logarithmic.
const DECADES: f64 = 100.0;

/// What a chart shows.
pub(super) struct Chart<'a> {
    /// What stands beside the vertical axis.
    pub(super) unit: &'a str,
    /// Curves with the places of their colours.
    pub(super) curves: &'a [(usize, &'a Curve)],
    /// Where healthy values lie.
    pub(super) band: Option<(f64, f64)>,
    /// Whether long curves get a smoothed one.
    pub(super) smooth: bool,
}

impl Chart<'_> {
    /// The picture; `None` where there is no value.
    pub(super) fn svg(&self) -> Option<String> {
        let ranges = self.curves.iter().filter_map(|(_, curve)| curve.range());
        let (low, high) = ranges.reduce(|(a, b), (c, d)| (a.min(c), b.max(d)))?;
        let steps = || self.curves.iter().flat_map(|(_, curve)| [curve.0.first(), curve.0.last()]).flatten();
        let first = steps().map(|(step, _)| *step).fold(f64::INFINITY, f64::min);
        let last = steps().map(|(step, _)| *step).fold(f64::NEG_INFINITY, f64::max);
        let steps = if last > first { first..last } else { first - 1.0..last + 1.0 };
        let drawn = if low > 0.0 && high / low >= DECADES {
            self.draw(steps, (low / 1.2..high * 1.2).log_scale())
        } else {
            let room = if high - low > 1e-12 * high.abs() { 0.05 * (high - low) } else { 0.1 * high.abs() };
            let room = if room > 0.0 { room } else { 1.0 };
            self.draw(steps, low - room..high + room)
        };
        // A string takes everything.
        Some(drawn.unwrap_or_else(|error| format!("<p>{error}</p>")))
    }

    fn draw<Y>(&self, steps: std::ops::Range<f64>, values: Y) -> Result<String, Failed>
    where
        Y: AsRangedCoord<Value = f64>,
        Y::CoordDescType: ValueFormatter<f64> + Ranged<ValueType = f64>,
    {
        let mut svg = String::new();
        {
            let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
            let mut chart = ChartBuilder::on(&root)
                .margin(4)
                .margin_right(14)
                .x_label_area_size(34)
                .y_label_area_size(62)
                .build_cartesian_2d(steps.clone(), values)?;
            let text = ("sans-serif", 12).into_font().color(&INK);
            if let Some((low, high)) = self.band {
                let shown = chart.y_range();
                let (low, high) = (low.max(shown.start), high.min(shown.end));
                if low < high {
                    let corners = [(steps.start, low), (steps.end, high)];
                    chart.draw_series([Rectangle::new(corners, BAND.filled())])?;
                }
            }
            chart
                .configure_mesh()
                .x_labels(5)
                .y_labels(5)
                .x_desc("step")
                .y_desc(self.unit)
                .label_style(text.clone())
                .axis_desc_style(text)
                .axis_style(INK)
                .bold_line_style(GRID)
                .light_line_style(TRANSPARENT)
                .x_label_formatter(&|step| short(*step))
                .y_label_formatter(&|value| short(*value))
                .draw()?;
            for (place, curve) in self.curves {
                let colour = COLOURS[*place % COLOURS.len()];
                let smoothed = curve.smoothed().filter(|_| self.smooth);
                let raw = if smoothed.is_some() { colour.mix(0.3) } else { colour.to_rgba() };
                if curve.0.len() <= POINTS {
                    chart.draw_series(curve.0.iter().map(|point| Circle::new(*point, 2, raw.filled())))?;
                }
                chart.draw_series(LineSeries::new(curve.thinned().0, raw.stroke_width(1)))?;
                if let Some(smoothed) = smoothed {
                    chart.draw_series(LineSeries::new(smoothed.thinned().0, colour.stroke_width(2)))?;
                }
            }
            root.present()?;
        }
        // Inside a page the name of SVG's language is known.
        Ok(svg.replace(" xmlns=\"http://www.w3.org/2000/svg\"", "").replace('\n', ""))
    }
}

type Failed = DrawingAreaErrorKind<std::io::Error>;

/// A number in few characters.
pub(super) fn short(value: f64) -> String {
    if value != 0.0 && !(1e-3..1e6).contains(&value.abs()) {
        return format!("{value:.1e}").replace(".0e", "e");
    }
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
