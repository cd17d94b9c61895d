//! What was measured so far, kept in a file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::cell::{Cell, Outcome};

const FILE: &str = "results.jsonl";

/// A cell and what came out of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// What was measured.
    pub cell: Cell,
    /// What came out.
    pub outcome: Outcome,
}

/// All measurements of a folder, one JSON object a line.
pub struct Results {
    file: File,
    measurements: Vec<Measurement>,
}

impl Results {
    /// Opens the folder's results, which are empty if there are none. A last line that was cut short is dropped.
    pub fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let path = folder.join(FILE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        let measurements: Vec<Measurement> = text.lines().map_while(|line| serde_json::from_str(line).ok()).collect();
        let whole: usize = text.lines().take(measurements.len()).map(|line| line.len() + 1).sum();
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        file.set_len(whole.min(text.len()) as u64)?;
        Ok(Self { file, measurements })
    }

    /// Whether a cell was measured, and did not fail.
    pub fn has(&self, cell: &Cell) -> bool {
        let good = |measurement: &&Measurement| matches!(measurement.outcome, Outcome::Measured { .. });
        self.measurements
            .iter()
            .filter(good)
            .any(|measurement| measurement.cell == *cell)
    }

    /// Writes a measurement down.
    pub fn add(&mut self, cell: Cell, outcome: Outcome) -> io::Result<()> {
        let measurement = Measurement { cell, outcome };
        let line = serde_json::to_string(&measurement)? + "\n";
        self.file.write_all(line.as_bytes())?;
        self.measurements.push(measurement);
        Ok(())
    }

    /// The last measurement of each cell, in the order in which they were made.
    pub fn all(&self) -> Vec<&Measurement> {
        let is_last = |(number, measurement): &(usize, &Measurement)| {
            let mut later = self.measurements[number + 1..].iter();
            later.all(|other| other.cell != measurement.cell)
        };
        let numbered = self.measurements.iter().enumerate();
        numbered.filter(is_last).map(|(_, measurement)| measurement).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Experiment;
    use crate::function::StartStrategy;
    use crate::state_folder::StateFolder;

    fn cell(function: &str) -> Cell {
        Cell {
            experiment: Experiment::ColdStart,
            function: function.to_owned(),
            home: "runc".to_owned(),
            start: StartStrategy::Cold,
        }
    }

    #[test]
    fn a_run_goes_on_where_it_was_cut_short() {
        let temporary = StateFolder::open(None).unwrap();
        let folder = temporary.path().join("results-test");
        let mut results = Results::open(&folder).unwrap();
        results.add(cell("a"), Outcome::measured("ms", Vec::new())).unwrap();
        results.add(cell("b"), Outcome::failed("no".to_owned())).unwrap();
        results.file.write_all(b"{\"cell\": {\"exp").unwrap();
        drop(results);

        let mut results = Results::open(&folder).unwrap();
        assert!(results.has(&cell("a")));
        assert!(!results.has(&cell("b")), "what failed is tried again");
        results.add(cell("b"), Outcome::measured("ms", Vec::new())).unwrap();
        drop(results);

        let results = Results::open(&folder).unwrap();
        assert!(results.has(&cell("b")));
        assert_eq!(results.all().len(), 2, "the last measurement of each cell counts");
    }
}
