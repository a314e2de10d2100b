//! Which kernel of those that can do a call a GPU takes: by kind of adapter, or as measured.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use crate::device::backend::MeasuredChoice;
use crate::device::buffer::lock;
use crate::device::recording::{Choice, Dispatch};
use crate::device::tier::{KernelPreference, Precision, Tier};

/// A GPU's table.
#[derive(Debug)]
pub(super) struct Table {
    software: bool,
    /// What the device has.
    tiers: Vec<Tier>,
    settings: Mutex<Settings>,
}

#[derive(Debug, Default)]
pub(super) struct Settings {
    pub preference: KernelPreference,
    pub precision: Precision,
    /// Whether what is not known is measured when something prepares itself.
    pub measures: bool,
    /// By family and class.
    measured: BTreeMap<(String, [u32; 3]), MeasuredChoice>,
}

/// Shader and variant. Where f16 is allowed there is more to choose from: that makes another
/// family.
fn family(dispatch: &Dispatch, precision: Precision) -> String {
    let allowed = if precision == Precision::F16 { ", f16 allowed" } else { "" };
    dispatch.kernel().name() + &dispatch.variant() + allowed
}

impl Table {
    pub fn new(software: bool, tiers: Vec<Tier>) -> Self {
        Self { software, tiers, settings: Mutex::default() }
    }

    pub fn settings(&self) -> MutexGuard<'_, Settings> {
        lock(&self.settings)
    }

    pub fn add_tier(&mut self, tier: Tier) {
        if !self.tiers.contains(&tier) {
            self.tiers.push(tier);
        }
    }

    pub fn tiers(&self) -> &[Tier] {
        &self.tiers
    }

    /// The kernels of a call that this device can run and that are exact enough.
    pub fn offered(&self, dispatch: &Dispatch) -> Vec<Choice> {
        let precision = self.settings().precision;
        let fits = |choice: &Choice| {
            let exact = choice.needs.is_exact() || precision == Precision::F16;
            exact && self.tiers.contains(&choice.needs)
        };
        dispatch.choices.all().filter(fits).collect()
    }

    pub fn remember(&self, choices: &[MeasuredChoice]) {
        let known = choices.iter().map(|choice| ((choice.family.clone(), choice.class), choice.clone()));
        self.settings().measured.extend(known);
    }

    /// Remembers the fastest of the kernels of a call, given the nanoseconds of each.
    pub fn learn(&self, dispatch: &Dispatch, nanoseconds: BTreeMap<String, u64>) {
        let family = family(dispatch, self.settings().precision);
        if let Some((kernel, _)) = nanoseconds.iter().min_by_key(|(_, time)| **time) {
            let (class, kernel) = (dispatch.class, kernel.clone());
            self.remember(&[MeasuredChoice { family, class, kernel, nanoseconds }]);
        }
    }

    pub fn measured(&self) -> Vec<MeasuredChoice> {
        self.settings().measured.values().cloned().collect()
    }

    pub fn knows(&self, dispatch: &Dispatch, offered: &[Choice]) -> bool {
        let settings = self.settings();
        let measured = settings.measured.get(&(family(dispatch, settings.precision), dispatch.class));
        measured.is_some_and(|known| offered.iter().all(|choice| known.nanoseconds.contains_key(&choice.name())))
    }

    /// The choice of a call. One that needs more than WebGPU's core was measured to be the fastest,
    /// or is asked for.
    pub fn pick(&self, dispatch: &Dispatch) -> Choice {
        let choices = &dispatch.choices;
        let default = if self.software { choices.software } else { choices.card };
        if choices.all().nth(1).is_none() {
            return default;
        }
        let settings = self.settings();
        let there = !matches!(settings.preference, KernelPreference::Tier(tier) if !self.tiers.contains(&tier));
        let preferred = there.then(|| choices.preferred(settings.preference)).flatten();
        if preferred.is_some() || settings.measured.is_empty() {
            return preferred.unwrap_or(default);
        }
        let best = settings.measured.get(&(family(dispatch, settings.precision), dispatch.class));
        let best = best.map(|best| best.kernel.clone());
        drop(settings);
        let mut offered = self.offered(dispatch).into_iter();
        best.and_then(|best| offered.find(|choice| choice.name() == best)).unwrap_or(default)
    }
}
