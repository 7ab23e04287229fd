//! The results of `kinfer bench` as a figure.

use super::measure::{Case, Kind};
use super::report::{Group, Measured};
use crate::system;
use anyhow::Context;
use plotters::coord::combinators::BindKeyPoints;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::path::Path;

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

const SIZE: (u32, u32) = (1180, 900);
/// Colours that also people tell apart who see few of them (Okabe and Ito 2008).
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(90, 90, 90),
];
const FAINT: RGBColor = RGBColor(225, 225, 225);
const TEXT: RGBColor = RGBColor(40, 40, 40);
const LEGEND_LINE: i32 = 22;
const LEGEND_COLUMNS: usize = 3;

/// Draws the results into an SVG file.
pub fn write(path: &Path, groups: &[Group]) -> anyhow::Result<()> {
    std::fs::write(path, svg(groups)?).with_context(|| format!("cannot write {}", path.display()))
}

/// A model with a number of threads: its name and colour.
struct Series<'a> {
    group: &'a Group,
    name: String,
    colour: RGBColor,
}

fn svg(groups: &[Group]) -> anyhow::Result<String> {
    let several_threads = groups.windows(2).any(|w| w[0].threads() != w[1].threads());
    let series: Vec<Series> = groups
        .iter()
        .zip(COLOURS.iter().cycle())
        .map(|(group, &colour)| {
            let name =
                Path::new(&group.name).file_name().map_or(group.name.clone(), |n| n.display().to_string());
            let name = match group.threads() {
                Some(1) if several_threads => format!("{name}, 1 thread"),
                Some(n) if several_threads => format!("{name}, {n} threads"),
                _ => name,
            };
            Series { group, name, colour }
        })
        .collect();
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let below = header(&root, &series)?;
        let (_, body) = root.split_vertically(below);
        let areas = body.split_evenly((2, 2));
        let depth =
            Panel::new("Decode by depth", "tokens in the cache", "tokens per second", &series, |first, c| {
                (c.kind == Kind::Decode && c.parallel == first.parallel).then_some(c.depth)
            });
        depth.draw_linear(&areas[0], &series)?;
        let sequences = "sequences side by side";
        Panel::new(
            "Decode by sequences",
            sequences,
            "tokens per second, all together",
            &series,
            |first, c| (c.kind == Kind::Decode && c.depth == first.depth).then_some(c.parallel),
        )
        .draw_logarithmic(&areas[1], &series)?;
        Panel::new("Prefill by prompt", "tokens of the prompt", "tokens per second", &series, |first, c| {
            (c.kind == Kind::Prefill && c.depth == first.depth && c.ubatch == first.ubatch)
                .then_some(c.tokens)
        })
        .draw_logarithmic(&areas[2], &series)?;
        roofline(&areas[3], &series)?;
        root.present()?;
    }
    Ok(svg)
}

fn style(size: u32) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&TEXT)
}

/// Title and legend; how far down they reach.
fn header(root: &Area<'_>, series: &[Series<'_>]) -> anyhow::Result<i32> {
    let title = format!("kinfer {} on {}", env!("CARGO_PKG_VERSION"), system::cpu_name());
    root.draw(&Text::new(title, (24, 16), style(22)))?;
    let column = (SIZE.0 as i32 - 48) / LEGEND_COLUMNS as i32;
    for (i, s) in series.iter().enumerate() {
        let (x, y) =
            (24 + (i % LEGEND_COLUMNS) as i32 * column, 50 + (i / LEGEND_COLUMNS) as i32 * LEGEND_LINE);
        root.draw(&Rectangle::new([(x, y + 2), (x + 14, y + 14)], s.colour.filled()))?;
        root.draw(&Text::new(s.name.clone(), (x + 22, y + 1), style(15)))?;
    }
    Ok(56 + series.len().div_ceil(LEGEND_COLUMNS) as i32 * LEGEND_LINE)
}

/// Speed over one variable.
struct Panel<'a> {
    title: &'static str,
    x_name: &'static str,
    y_name: &'static str,
    /// Of each series, by x.
    points: Vec<Vec<(f64, &'a Measured)>>,
}

impl<'a> Panel<'a> {
    /// Of the tests for which `x`, given the first test of its kind and the test, is a value, with as many tokens as the
    /// first one where that is not what x is.
    fn new(
        title: &'static str,
        x_name: &'static str,
        y_name: &'static str,
        series: &[Series<'a>],
        x: impl Fn(&Case, &Case) -> Option<usize>,
    ) -> Self {
        let of = |group: &'a Group| {
            let mut points: Vec<(f64, &Measured)> = Vec::new();
            for test in &group.tests {
                let first = group.tests.iter().find(|t| t.case.kind == test.case.kind);
                let Some(x) = first.and_then(|first| x(&first.case, &test.case)) else { continue };
                // Several numbers of tokens to generate at one depth: the first one.
                if !points.iter().any(|(other, _)| *other == x as f64) {
                    points.push((x as f64, test));
                }
            }
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            points
        };
        Self { title, x_name, y_name, points: series.iter().map(|s| of(s.group)).collect() }
    }

    /// Smallest and largest x, and the largest y.
    fn extent(&self) -> Option<(f64, f64, f64)> {
        self.points.iter().flatten().fold(None, |extent, &(x, test)| {
            let (low, high, top) = extent.unwrap_or((x, x, 0.0));
            Some((low.min(x), high.max(x), top.max(test.max())))
        })
    }

    fn draw_linear(&self, area: &Area<'_>, series: &[Series<'_>]) -> anyhow::Result<()> {
        match self.extent() {
            None => self.nothing(area),
            Some((low, high, top)) => {
                let margin = ((high - low) * 0.04).max(1.0);
                self.draw(area, series, (low - margin).min(0.0)..high + margin, top)
            }
        }
    }

    fn draw_logarithmic(&self, area: &Area<'_>, series: &[Series<'_>]) -> anyhow::Result<()> {
        match self.extent() {
            None => self.nothing(area),
            Some((low, high, top)) => {
                let mut ticks: Vec<f64> = self.points.iter().flatten().map(|(x, _)| *x).collect();
                ticks.sort_by(f64::total_cmp);
                ticks.dedup();
                self.draw(area, series, (low / 1.3..high * 1.3).log_scale().with_key_points(ticks), top)
            }
        }
    }

    fn draw<X>(&self, area: &Area<'_>, series: &[Series<'_>], x: X, top: f64) -> anyhow::Result<()>
    where
        X: AsRangedCoord<Value = f64>,
        X::CoordDescType: ValueFormatter<f64>,
    {
        let mut chart = builder(area, self.title).build_cartesian_2d(x, 0.0..top * 1.12)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(FAINT)
            .axis_style(TEXT)
            .label_style(style(13))
            .axis_desc_style(style(14))
            .x_desc(self.x_name)
            .y_desc(self.y_name)
            .x_label_formatter(&|x| if *x < 0.0 { String::new() } else { format!("{x:.0}") })
            .y_label_formatter(&|y| number(*y))
            .draw()?;
        for (s, points) in series.iter().zip(&self.points) {
            let line = points.iter().map(|(x, t)| (*x, t.median()));
            chart.draw_series(LineSeries::new(line.clone(), s.colour.stroke_width(2)))?;
            // From the slowest repetition to the fastest.
            let spread = points.iter().map(|(x, t)| vec![(*x, t.min()), (*x, t.max())]);
            chart.draw_series(spread.map(|ends| PathElement::new(ends, s.colour.stroke_width(1))))?;
            chart.draw_series(line.map(|point| Circle::new(point, 4, s.colour.filled())))?;
        }
        Ok(())
    }

    fn nothing(&self, area: &Area<'_>) -> anyhow::Result<()> {
        nothing(area, self.title)
    }
}

fn builder<'a, 'b>(area: &'a Area<'b>, title: &str) -> ChartBuilder<'a, 'b, SVGBackend<'b>> {
    let mut builder = ChartBuilder::on(area);
    builder.caption(title, style(17)).margin(14).x_label_area_size(46).y_label_area_size(64);
    builder
}

/// A panel without results.
fn nothing(area: &Area<'_>, title: &str) -> anyhow::Result<()> {
    let (width, height) = area.dim_in_pixel();
    let centre = (width as i32 / 2, height as i32 / 2);
    let style = style(15).pos(Pos::new(HPos::Center, VPos::Center));
    area.draw(&Text::new(format!("{title}: not measured"), centre, style))?;
    Ok(())
}

/// Operations per second over operations per byte, below what memory and arithmetic allow.
fn roofline(area: &Area<'_>, series: &[Series<'_>]) -> anyhow::Result<()> {
    const TITLE: &str = "Roofline";
    // Intensity and GOPS of each test.
    let points = |s: &Series<'_>, kind| {
        let tests = s.group.tests.iter().filter(move |t| t.case.kind == kind);
        tests.map(|t| (t.work.operations / t.work.bytes, t.gops())).collect::<Vec<_>>()
    };
    let mut roofs: Vec<(f64, f64, String)> = Vec::new();
    for (bounds, arithmetic) in series.iter().filter_map(|s| s.group.bounds) {
        let (Some(gb_per_s), gops) = (bounds.gb_per_s, bounds.gops(arithmetic)) else { continue };
        let label = format!("{}: {gb_per_s:.1} GB/s, {gops:.0} GOPS {}", bounds.of(), arithmetic.name());
        if !roofs.iter().any(|(_, _, other)| *other == label) {
            roofs.push((gb_per_s, gops, label));
        }
    }
    let all = || series.iter().flat_map(|s| [points(s, Kind::Prefill), points(s, Kind::Decode)]).flatten();
    if roofs.is_empty() || all().next().is_none() {
        return nothing(area, TITLE);
    }
    let ridge = roofs.iter().map(|(gb, gops, _)| gops / gb).fold(0.0, f64::max);
    let (low, high) =
        all().fold((1.0, 4.0 * ridge), |(l, h): (f64, f64), (x, _)| (l.min(x / 1.5), h.max(x * 1.5)));
    let top = roofs.iter().map(|r| r.1).chain(all().map(|p| p.1)).fold(0.0, f64::max) * 2.5;
    let bottom = all().map(|p| p.1).chain(roofs.iter().map(|r| r.0 * low)).fold(top, f64::min) / 1.5;
    let mut chart =
        builder(area, TITLE).build_cartesian_2d((low..high).log_scale(), (bottom..top).log_scale())?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(FAINT)
        .axis_style(TEXT)
        .label_style(style(13))
        .axis_desc_style(style(14))
        .x_desc("operations per byte read")
        .y_desc("GOPS")
        .x_label_formatter(&|x| number(*x))
        .y_label_formatter(&|y| number(*y))
        .draw()?;
    for (gb_per_s, gops, _) in &roofs {
        let roof = [(low, gb_per_s * low), (gops / gb_per_s, *gops), (high, *gops)];
        chart.draw_series([PathElement::new(roof, TEXT.stroke_width(2))])?;
    }
    for s in series {
        chart.draw_series(
            points(s, Kind::Prefill).into_iter().map(|p| TriangleMarker::new(p, 6, s.colour.filled())),
        )?;
        chart
            .draw_series(points(s, Kind::Decode).into_iter().map(|p| Circle::new(p, 4, s.colour.filled())))?;
    }
    // Upper left: above the roofs there is little, only what a cache fed.
    for (i, (_, _, label)) in roofs.iter().enumerate() {
        area.draw(&Text::new(label.clone(), (92, 46 + 18 * i as i32), style(13)))?;
    }
    let key = style(13).pos(Pos::new(HPos::Right, VPos::Bottom));
    chart.draw_series([Text::new("circles: decode, triangles: prefill", (high / 1.1, bottom * 1.1), key)])?;
    Ok(())
}

/// A tick's label.
fn number(x: f64) -> String {
    match x {
        _ if x >= 10.0 || x.fract() == 0.0 => format!("{x:.0}"),
        _ if x >= 1.0 => format!("{x:.1}"),
        _ => format!("{x:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_short() {
        assert_eq!([0.0, 0.25, 1.0, 2.5, 1710.4].map(number), ["0", "0.25", "1", "2.5", "1710"]);
    }
}
