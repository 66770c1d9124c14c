//! What a record of an answer counts for.

use super::{ALIAS, Answer, COMPARE, DONE, Found, MAX_HOPS, PARAMETERS, SERVICE, TAKE};
use crate::dns::name::{BAD, READY};
use crate::dns::wire::{DIFFERENT, Known};
use crate::dns::{
    CLASS_IN, MAX_ADDRESSES, Message, Problem, TYPE_A, TYPE_AAAA, TYPE_CNAME, TYPE_HTTPS, TYPE_OPT, TYPE_SVCB,
};

impl Answer {
    /// What stands behind the owner.
    #[inline(always)]
    pub(super) fn fixed(&mut self, message: &Message) {
        let fixed = self.walk.end;
        let kind = message.two(fixed);
        let class = message.two(fixed + 2);
        let ttl = message.four(fixed + 4);
        self.data = fixed + 10;
        self.next = self.data + u32::from(message.two(fixed + 8));
        if self.next > message.length {
            return self.fail(Problem::Malformed);
        }
        self.record_kind = u32::from(kind);
        // RFC 2181: one with the top bit set counts as none.
        self.ttl = if ttl >> 31 == 0 { ttl } else { 0 };
        if kind == TYPE_OPT && self.record >= self.additional {
            return self.edns(ttl);
        }
        let wanted = kind == TYPE_CNAME || kind == self.kind;
        // Names of different lengths need no comparison.
        let wanted = wanted && self.walk.length == self.target.length;
        if wanted && class == CLASS_IN && self.record < self.answers && self.code == 0 {
            self.comparison.begin(self.at, self.target.at);
            self.phase = COMPARE;
        } else {
            self.pass();
        }
    }

    /// EDNS: one record at most, of the root.
    #[inline(always)]
    const fn edns(&mut self, ttl: u32) {
        self.edns += 1;
        if self.edns > 1 || self.walk.length != 1 {
            return self.fail(Problem::Malformed);
        }
        self.code |= ((ttl >> 24) << 4) as u16;
        if self.code != 0 {
            self.count = 0;
        }
        self.pass();
    }

    #[inline(always)]
    pub(super) fn compare(&mut self, message: &Message) {
        match self.comparison.step(message) {
            READY => self.phase = TAKE,
            DIFFERENT => self.pass(),
            _ => {}
        }
    }

    /// A record that counts.
    #[inline(always)]
    pub(super) fn take(&mut self, message: &Message) {
        let length = self.next - self.data;
        match self.record_kind as u16 {
            TYPE_CNAME => {
                self.walk.begin(self.data, message);
                self.phase = ALIAS;
            }
            TYPE_A if length == 4 => {
                self.push_v4(message, self.data);
                self.pass_unless_done();
            }
            TYPE_AAAA if length == 16 => {
                self.push_v6(message, self.data);
                self.pass_unless_done();
            }
            TYPE_SVCB | TYPE_HTTPS if length > 2 => {
                // Priority zero makes it an alias, which is not followed.
                if message.two(self.data) == 0 {
                    return self.pass();
                }
                self.walk.begin(self.data + 2, message);
                self.phase = SERVICE;
            }
            TYPE_A | TYPE_AAAA | TYPE_SVCB | TYPE_HTTPS => self.fail(Problem::Malformed),
            _ => self.pass(),
        }
    }

    #[inline(always)]
    const fn pass_unless_done(&mut self) {
        if self.phase != DONE {
            self.pass();
        }
    }

    /// The target is what the alias stands for, whose records may stand in front of it: so all are looked at again. An
    /// alias has no addresses of its own; where it claims some, they do not count, in front of it or behind.
    #[inline(always)]
    pub(super) const fn follow(&mut self) {
        if self.walk.end != self.next {
            return self.fail(Problem::Malformed);
        }
        self.hops += 1;
        if self.hops > MAX_HOPS {
            return self.fail(Problem::LongChain);
        }
        self.target = Known { at: self.data, end: self.next, length: self.walk.length };
        if self.ttl < self.chain_ttl {
            self.chain_ttl = self.ttl;
        }
        self.count = 0;
        self.rewind();
    }

    /// Behind a service's name, which may not be compressed.
    #[inline(always)]
    pub(super) const fn serve(&mut self) {
        let (start, end) = (self.data + 2, self.walk.end);
        // A pointer takes two bytes, and no name does.
        if end - start != self.walk.length || end > self.next {
            return self.fail(Problem::Malformed);
        }
        self.parameters.begin(end);
        self.phase = PARAMETERS;
    }

    #[inline(always)]
    pub(super) fn parameter(&mut self, message: &Message) {
        match self.parameters.step(message, self.next) {
            READY => self.pass(),
            BAD => self.fail(Problem::Malformed),
            _ => {}
        }
        let (hint, size) = self.parameters.hint();
        match size {
            4 => self.push_v4(message, hint),
            16 => self.push_v6(message, hint),
            _ => {}
        }
    }

    #[inline(always)]
    fn push_v4(&mut self, message: &Message, at: u32) {
        let bytes = message.some::<4>(at);
        let Some(place) = self.place() else { return };
        [place.address[12], place.address[13], place.address[14], place.address[15]] = bytes;
    }

    #[inline(always)]
    fn push_v6(&mut self, message: &Message, at: u32) {
        let mapped = message.four(at) | message.four(at + 4) == 0 && message.four(at + 8) == 0xffff;
        let Some(place) = self.place() else { return };
        place.address = message.some::<16>(at);
        place.mapped = u32::from(mapped);
    }

    /// Where the next address goes, with the mapped form's beginning and the time to live.
    #[inline(always)]
    const fn place(&mut self) -> Option<&mut Found> {
        if self.count as usize >= MAX_ADDRESSES {
            self.fail(Problem::TooMany);
            return None;
        }
        let ttl = if self.ttl < self.chain_ttl { self.ttl } else { self.chain_ttl };
        let place = &mut self.addresses[self.count as usize & (MAX_ADDRESSES - 1)];
        // In place, as a copy of a constant: zeros that it knows one by one the compiler clears by a call.
        *place = Found::MAPPED;
        place.ttl = ttl;
        self.count += 1;
        Some(place)
    }
}
