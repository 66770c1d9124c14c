//! Messages, written as servers write them: with compression, without, and in between.

use crate::random::Random;

/// A name, from the first label to the last.
pub(crate) type Labels = Vec<Vec<u8>>;

/// How names are written.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Compression {
    /// In full.
    None,
    /// The longest end that was written before is pointed to.
    Longest,
    /// Any end that was written before, or none.
    Any,
}

/// A message that grows.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) bytes: Vec<u8>,
    compression: Compression,
    /// Mixes the case of letters, as clients do that want it back so.
    mixed: bool,
    /// Ends of names, in lower case, and where they stand.
    known: Vec<(Labels, usize)>,
}

impl Writer {
    pub(crate) fn new(random: &mut Random, flags: u16) -> Writer {
        let compression =
            random.of(&[Compression::None, Compression::Longest, Compression::Longest, Compression::Any]);
        let mut bytes = random.bytes(2);
        bytes.extend(flags.to_be_bytes());
        bytes.extend([0; 8]);
        Writer { bytes, compression, mixed: random.one_in(3), known: Vec::new() }
    }

    pub(crate) fn number(&mut self, number: u16) {
        self.bytes.extend(number.to_be_bytes());
    }

    /// One more in one of the four sections.
    pub(crate) fn count(&mut self, section: usize) {
        let at = 4 + 2 * section;
        let count = u16::from_be_bytes([self.bytes[at], self.bytes[at + 1]]) + 1;
        self.bytes[at..at + 2].copy_from_slice(&count.to_be_bytes());
    }

    /// A name, which may point to what was written before.
    pub(crate) fn name(&mut self, random: &mut Random, labels: &[Vec<u8>]) {
        for start in 0..labels.len() {
            let rest: Labels = labels[start..].iter().map(|label| label.to_ascii_lowercase()).collect();
            let place = self.known.iter().find(|(known, _)| *known == rest).map(|(_, place)| *place);
            let compress = match self.compression {
                Compression::None => false,
                Compression::Longest => true,
                Compression::Any => random.one_in(2),
            };
            if let (Some(place), true) = (place, compress) {
                return self.number(0xc000 | place as u16);
            }
            let here = self.bytes.len();
            self.known.insert(random.below(self.known.len() + 1), (rest, here));
            self.label(random, &labels[start]);
        }
        self.bytes.push(0);
    }

    /// A name where none may be compressed.
    pub(crate) fn plain_name(&mut self, random: &mut Random, labels: &[Vec<u8>]) {
        labels.iter().for_each(|label| self.label(random, label));
        self.bytes.push(0);
    }

    fn label(&mut self, random: &mut Random, label: &[u8]) {
        self.bytes.push(label.len() as u8);
        for byte in label {
            let other = self.mixed && byte.is_ascii_alphabetic() && random.one_in(2);
            self.bytes.push(if other { byte ^ 0x20 } else { *byte });
        }
    }

    /// A record; `data` writes what it holds.
    pub(crate) fn record(
        &mut self,
        random: &mut Random,
        section: usize,
        owner: &[Vec<u8>],
        fields: (u16, u16, u32),
        data: impl FnOnce(&mut Writer, &mut Random),
    ) {
        let (kind, class, ttl) = fields;
        self.count(section);
        self.name(random, owner);
        self.number(kind);
        self.number(class);
        self.bytes.extend(ttl.to_be_bytes());
        let at = self.bytes.len();
        self.number(0);
        data(self, random);
        let length = (self.bytes.len() - at - 2) as u16;
        self.bytes[at..at + 2].copy_from_slice(&length.to_be_bytes());
    }
}
