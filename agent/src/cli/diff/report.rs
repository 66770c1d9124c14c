//! What is told of a policy, line by line.

use std::fmt::Write as _;

use ipnet::IpNet;

use super::words;
use crate::text::visible;

/// How much is listed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// CIDRs of one change.
    cidrs: usize,
    /// Changes under one label.
    changes: usize,
}

impl Limits {
    pub(super) const DEFAULT: Self = Self { cidrs: 20, changes: 40 };
    pub(super) const NONE: Self = Self { cidrs: usize::MAX, changes: usize::MAX };

    /// As many CIDRs as are listed, ascending. The widest: of 0.0.0.0/0 without the few addresses that are refused or
    /// were open before, the first pieces would say nothing to a reviewer.
    fn widest(&self, cidrs: &[IpNet]) -> Vec<IpNet> {
        let mut widest = cidrs.to_vec();
        if widest.len() > self.cidrs {
            widest.sort_by_key(|cidr| (cidr.prefix_len(), *cidr));
            widest.truncate(self.cidrs);
            widest.sort();
        }
        widest
    }
}

/// Addresses with what happens to them.
#[derive(Debug)]
pub(super) struct Addresses {
    pub(super) cidrs: Vec<IpNet>,
    pub(super) ports: String,
    pub(super) why: String,
}

#[derive(Debug)]
enum Content {
    Text(String),
    Addresses(Addresses),
}

#[derive(Debug)]
struct Line {
    label: &'static str,
    content: Content,
}

/// What is told of one policy.
#[derive(Debug)]
pub(super) struct Section {
    policy: String,
    mode: &'static str,
    lines: Vec<Line>,
    broadens: bool,
    /// A policy that nobody had before takes nothing from what others refuse: what it allows is told and not counted.
    is_new: bool,
}

/// Columns that labels take, with the space behind.
const LABEL: usize = 16;
/// Wider ports do not move the column behind them.
const PORTS: usize = 28;

impl Section {
    pub(super) fn new(policy: &str, mode: &'static str) -> Self {
        Self { policy: policy.to_owned(), mode, lines: Vec::new(), broadens: false, is_new: false }
    }

    pub(super) fn of_new_policy(policy: &str, mode: &'static str) -> Self {
        Self { is_new: true, ..Self::new(policy, mode) }
    }

    pub(super) fn policy(&self) -> &str {
        &self.policy
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    pub(super) const fn broadens(&self) -> bool {
        self.broadens
    }

    pub(super) const fn is_of_new_policy(&self) -> bool {
        self.is_new
    }

    /// From here on what is told counts after all.
    pub(super) const fn adds_to_old_policies(&mut self) {
        self.is_new = false;
    }

    fn count(&mut self, broadens: bool) {
        self.broadens |= broadens && !self.is_new;
    }

    /// Says something, where the label tells which way it goes.
    pub(super) fn tell(&mut self, label: &'static str, text: String, broadens: bool) {
        self.count(broadens);
        self.lines.push(Line { label, content: Content::Text(text) });
    }

    /// Says something, and that it broadens where it does.
    pub(super) fn tell_setting(&mut self, label: &'static str, text: String, broadens: bool) {
        let text = if broadens && !self.is_new { format!("{text}  (broadens)") } else { text };
        self.tell(label, text, broadens);
    }

    /// Says what the label says of these addresses.
    pub(super) fn tell_addresses(&mut self, label: &'static str, addresses: Addresses, broadens: bool) {
        self.count(broadens);
        self.lines.push(Line { label, content: Content::Addresses(addresses) });
    }

    pub(super) fn render(&self, limits: &Limits) -> String {
        let mut out = format!("policy {} ({})\n", visible(&self.policy), self.mode);
        let columns = self.columns(limits);
        let mut lines = self.lines.as_slice();
        while let Some(first) = lines.first() {
            let alike = lines.iter().take_while(|line| line.label == first.label).count();
            let (same, rest) = lines.split_at(alike);
            for line in same.iter().take(limits.changes) {
                line.render(&mut out, columns, limits);
            }
            if alike > limits.changes {
                let more = alike - limits.changes;
                let _ = writeln!(out, "  {:LABEL$}and {more} more like these; --all lists them", first.label);
            }
            lines = rest;
        }
        out.push('\n');
        out
    }

    /// Widths of CIDRs and ports.
    fn columns(&self, limits: &Limits) -> (usize, usize) {
        let addresses = || {
            self.lines.iter().filter_map(|line| match &line.content {
                Content::Addresses(addresses) => Some(addresses),
                Content::Text(_) => None,
            })
        };
        let shown = addresses().flat_map(|addresses| limits.widest(&addresses.cidrs));
        let cidrs = shown.map(|cidr| cidr.to_string().len()).max().unwrap_or(0);
        let ports = addresses().map(|addresses| addresses.ports.len()).filter(|width| *width <= PORTS);
        (cidrs, ports.max().unwrap_or(0))
    }
}

impl Line {
    fn render(&self, out: &mut String, (cidr_width, port_width): (usize, usize), limits: &Limits) {
        let label = self.label;
        let Addresses { cidrs, ports, why } = match &self.content {
            Content::Text(text) => {
                let _ = writeln!(out, "  {label:LABEL$}{}", visible(text));
                return;
            }
            Content::Addresses(addresses) => addresses,
        };
        for (index, cidr) in limits.widest(cidrs).iter().enumerate() {
            let cidr = cidr.to_string();
            let line = match index {
                0 if port_width == 0 => format!("  {label:LABEL$}{cidr:cidr_width$}  {}", visible(why)),
                0 => format!("  {label:LABEL$}{cidr:cidr_width$}  {ports:port_width$}  {}", visible(why)),
                _ => format!("  {:LABEL$}{cidr}", ""),
            };
            let _ = writeln!(out, "{}", line.trim_end());
        }
        if cidrs.len() > limits.cidrs {
            let more = cidrs.len() - limits.cidrs;
            let _ = writeln!(out, "  {:LABEL$}and {more} more CIDRs; {} in all", "", words::addresses(cidrs));
        }
    }
}
