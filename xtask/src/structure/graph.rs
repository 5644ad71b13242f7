//! Who uses whom, and the circles in it.

use std::collections::{BTreeMap, BTreeSet};

/// Arrows between names.
#[derive(Default)]
pub struct Graph(BTreeMap<String, BTreeSet<String>>);

/// Names that all lead to each other.
#[derive(Debug, PartialEq, Eq)]
pub struct Circle {
    /// The names.
    pub members: Vec<String>,
    /// The arrows between them.
    pub arrows: Vec<(String, String)>,
}

impl Graph {
    /// Adds an arrow; one to itself is none.
    pub fn add(&mut self, from: &str, to: &str) {
        if from != to {
            self.0
                .entry(from.to_owned())
                .or_default()
                .insert(to.to_owned());
            self.0.entry(to.to_owned()).or_default();
        }
    }

    /// Every circle, each as large as it is. Crates are small: what each name reaches is asked for
    /// one by one.
    pub fn circles(&self) -> Vec<Circle> {
        let reached: BTreeMap<&str, BTreeSet<&str>> = self
            .0
            .keys()
            .map(|name| (name.as_str(), self.reach(name)))
            .collect();
        let mut circles = Vec::new();
        let mut told = BTreeSet::new();
        for (name, reach) in &reached {
            if !reach.contains(name) || told.contains(name) {
                continue;
            }
            let members: Vec<&str> = reach
                .iter()
                .copied()
                .filter(|other| reached[other].contains(name))
                .collect();
            told.extend(members.iter().copied());
            let mut arrows = Vec::new();
            for &from in &members {
                for to in &self.0[from] {
                    if members.contains(&to.as_str()) {
                        arrows.push((from.to_owned(), to.clone()));
                    }
                }
            }
            circles.push(Circle {
                members: members.into_iter().map(str::to_owned).collect(),
                arrows,
            });
        }
        circles
    }

    fn reach(&self, name: &str) -> BTreeSet<&str> {
        let mut reached = BTreeSet::new();
        let mut next: Vec<&str> = self.0[name].iter().map(String::as_str).collect();
        while let Some(name) = next.pop() {
            if reached.insert(name) {
                next.extend(self.0[name].iter().map(String::as_str));
            }
        }
        reached
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn circles_are_found_with_their_arrows() {
        let mut graph = Graph::default();
        for (from, to) in [("a", "b"), ("b", "c"), ("c", "b"), ("c", "d"), ("a", "a")] {
            graph.add(from, to);
        }
        let arrow = |from: &str, to: &str| (from.to_owned(), to.to_owned());
        assert_eq!(
            graph.circles(),
            [Circle {
                members: vec!["b".into(), "c".into()],
                arrows: vec![arrow("b", "c"), arrow("c", "b")],
            }]
        );
    }
}
