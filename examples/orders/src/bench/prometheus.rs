//! A relay's own numbers, from Prometheus' text format.

use std::collections::BTreeMap;
use std::time::Duration;

use super::BenchError;

const SCRAPE_TIMEOUT: Duration = Duration::from_secs(2);

/// One scrape.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    /// Reads `/metrics` at `url`.
    ///
    /// # Errors
    /// No answer in time, or not 200.
    pub async fn scrape(client: &reqwest::Client, url: &str) -> Result<Self, BenchError> {
        let text = async {
            let response = client.get(url).timeout(SCRAPE_TIMEOUT).send().await?;
            response.error_for_status()?.text().await
        };
        let text = text.await.map_err(|error| BenchError::new(url, error))?;
        Ok(Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        let series = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.rsplit_once(' '))
            .filter_map(|(series, value)| Some((series.to_owned(), value.parse().ok()?)));
        Self(series.collect())
    }

    /// A metric, summed over its labels; 0 if it has no series.
    pub fn sum(&self, name: &str) -> f64 {
        let values = self.0.iter().filter(|(series, _)| metric(series) == name);
        values.map(|(_, value)| value).sum()
    }

    /// The same, of series that carry a label, as in `cursor="fast"`.
    pub fn sum_with(&self, name: &str, labelled: &str) -> f64 {
        let of = |series: &str| metric(series) == name && series.contains(labelled);
        let values = self.0.iter().filter(|(series, _)| of(series));
        values.map(|(_, value)| value).sum()
    }

    /// A histogram, summed over its other labels.
    pub fn histogram(&self, name: &str) -> Distribution {
        let name = format!("{name}_bucket");
        let mut cumulative: Vec<(f64, f64)> = Vec::new();
        for (series, value) in self.0.iter().filter(|(series, _)| metric(series) == name) {
            let Some(bound) = label(series, "le").and_then(|bound| bound.parse::<f64>().ok()) else {
                continue;
            };
            match cumulative.iter_mut().find(|(known, _)| *known == bound) {
                Some((_, count)) => *count += value,
                None => cumulative.push((bound, *value)),
            }
        }
        cumulative.sort_by(|(one, _), (other, _)| one.total_cmp(other));
        Distribution { cumulative }
    }
}

/// Counts by upper bound: each counts everything up to its bound; the last bound is infinite.
#[derive(Debug, Clone, PartialEq)]
pub struct Distribution {
    cumulative: Vec<(f64, f64)>,
}

impl Distribution {
    /// What was added since an earlier state of the same histogram, which may not have existed then.
    pub fn since(&self, before: &Self) -> Self {
        let earlier = |bound: f64| {
            let found = before.cumulative.iter().find(|(known, _)| *known == bound);
            found.map_or(0.0, |(_, count)| *count)
        };
        let added = self
            .cumulative
            .iter()
            .map(|(bound, count)| (*bound, count - earlier(*bound)));
        Self {
            cumulative: added.collect(),
        }
    }

    pub fn count(&self) -> f64 {
        self.cumulative.last().map_or(0.0, |(_, count)| *count)
    }

    /// The value below which a part of all lies, evenly spread within a bucket; the highest finite bound for what lies
    /// above it. None if there are no values.
    pub fn quantile(&self, part: f64) -> Option<f64> {
        let rank = part * self.count();
        let index = self
            .cumulative
            .iter()
            .position(|(_, count)| *count >= rank && *count > 0.0)?;
        let (low, below) = match index {
            0 => (0.0, 0.0),
            _ => self.cumulative[index - 1],
        };
        let (high, up_to) = self.cumulative[index];
        if high.is_infinite() {
            return Some(low);
        }
        Some(low + (high - low) * (rank - below) / (up_to - below))
    }

    /// Upper bound of the highest bucket that has values; infinite if nothing bounds it.
    pub fn at_most(&self) -> Option<f64> {
        let all = self.count();
        let full = self
            .cumulative
            .iter()
            .find(|(_, count)| *count >= all && all > 0.0);
        full.map(|(bound, _)| *bound)
    }
}

fn metric(series: &str) -> &str {
    series.split('{').next().unwrap_or_default()
}

fn label<'a>(series: &'a str, name: &str) -> Option<&'a str> {
    let (_, after) = series.split_once(&format!("{name}=\""))?;
    after.split('"').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# TYPE seconds histogram\n\
        seconds_bucket{le=\"0.01\"} 50\n\
        seconds_bucket{le=\"0.05\"} 90\n\
        seconds_bucket{le=\"0.1\"} 100\n\
        seconds_bucket{le=\"+Inf\"} 100\n\
        events_total{event_type=\"a b\"} 40\n\
        events_total{event_type=\"c\"} 2\n\
        events_total_other 9\n";

    #[test]
    fn counters_and_histograms_are_read() {
        let metrics = Metrics::parse(TEXT);
        assert_eq!(metrics.sum("events_total"), 42.0);
        assert_eq!(metrics.sum("missing"), 0.0);
        assert_eq!(metrics.sum_with("events_total", "event_type=\"c\""), 2.0);
        let all = metrics.histogram("seconds");
        for (part, expected) in [(0.25, 0.005), (0.5, 0.01), (0.7, 0.03), (1.0, 0.1)] {
            let value = all.quantile(part).unwrap();
            assert!((value - expected).abs() < 1e-9, "{part}: {value}");
        }
        assert_eq!((all.count(), all.at_most()), (100.0, Some(0.1)));

        let nothing = all.since(&all);
        assert_eq!(
            (nothing.count(), nothing.quantile(0.5), nothing.at_most()),
            (0.0, None, None)
        );
        let from_nothing = all.since(&Metrics::default().histogram("seconds"));
        assert_eq!(from_nothing, all);
    }

    #[test]
    fn what_lies_above_all_bounds_is_not_hidden() {
        let text = "s_bucket{le=\"1\"} 1\ns_bucket{le=\"+Inf\"} 2\n";
        let all = Metrics::parse(text).histogram("s");
        assert_eq!(
            (all.quantile(0.99), all.at_most()),
            (Some(1.0), Some(f64::INFINITY))
        );
    }
}
