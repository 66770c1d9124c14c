//! What capabilities and namespaces do not stop, by system call:
//!
//! - typing into the caller's terminal: with TIOCSTI, or TIOCLINUX on a console, CMD would leave commands behind for
//!   the shell outside to run;
//! - keyrings, which no namespace divides: request_key makes the kernel start a program outside the cgroup, and the
//!   caller's keys would be readable;
//! - sockets of families whose packets no cgroup program sees, vsock among them, and io_uring, which makes sockets
//!   without the calls that are looked at here.
//!
//! What stays open: on i386, socketcall passes the family in memory, where a filter cannot look, and the C library
//! there knows no other way; to refuse the call would refuse every network to 32-bit programs.

use nix::libc;
use seccompiler::{apply_filter, sock_filter};

// From linux/audit.h, linux/bpf_common.h and linux/seccomp.h.
const LOAD_WORD: u16 = 0x20;
const JUMP_IF_EQUAL: u16 = 0x15;
const AND: u16 = 0x54;
const RETURN: u16 = 0x06;
const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;
const ERRNO_EPERM: u32 = ERRNO | libc::EPERM.cast_unsigned();
const ERRNO_EAFNOSUPPORT: u32 = ERRNO | libc::EAFNOSUPPORT.cast_unsigned();

// Offsets in `struct seccomp_data`. Arguments are 64 bits wide; the kernel reads the low half of those used here.
const SYSCALL: u32 = 0;
const ARCHITECTURE: u32 = 4;
const FIRST_ARGUMENT: u32 = 16;
const SECOND_ARGUMENT: u32 = 24;

/// Requests of ioctl that are refused.
const REQUESTS: [u32; 2] = [0x5412, 0x541c];

/// Families of sockets that may be made. Packet sockets need NET_RAW, which is the caller's to keep.
const FAMILIES: [i32; 5] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK, libc::AF_PACKET];

/// A calling convention that a process can use here, with its numbers.
struct Convention {
    architecture: u32,
    ioctl: &'static [u32],
    /// socket and socketpair.
    socket: [u32; 2],
    /// add_key, request_key, keyctl; then io_uring_setup, _enter and _register.
    refused: [u32; 6],
}

// Written by hand, not by the crate's compiler, because that one knows a single convention and kills every 32-bit
// program. The second number of ioctl is that of x32, whose other numbers here are those of x86-64.
#[cfg(target_arch = "x86_64")]
const CONVENTIONS: [Convention; 2] = [
    Convention {
        architecture: 0xc000_003e,
        ioctl: &[16, 514],
        socket: [41, 53],
        refused: [248, 249, 250, 425, 426, 427],
    },
    Convention {
        architecture: 0x4000_0003,
        ioctl: &[54],
        socket: [359, 360],
        refused: [286, 287, 288, 425, 426, 427],
    },
];
#[cfg(target_arch = "aarch64")]
const CONVENTIONS: [Convention; 2] = [
    Convention {
        architecture: 0xc000_00b7,
        ioctl: &[29],
        socket: [198, 199],
        refused: [217, 218, 219, 425, 426, 427],
    },
    Convention {
        architecture: 0x4000_0028,
        ioctl: &[54],
        socket: [281, 288],
        refused: [309, 310, 311, 425, 426, 427],
    },
];

/// The bit that marks a call of the x32 convention. Set nowhere else.
const X32_BIT: u32 = 0x4000_0000;

/// Refuses all that for the calling thread and all its descendants, and sets no_new_privs.
pub(super) fn refuse_ways_around() -> Result<(), seccompiler::Error> {
    apply_filter(&program())
}

fn program() -> Vec<sock_filter> {
    let mut program = vec![statement(LOAD_WORD, ARCHITECTURE)];
    for convention in &CONVENTIONS {
        let body = body(convention);
        let length = u8::try_from(body.len()).expect("fewer than 256 instructions");
        program.push(jump_if_equal(convention.architecture, 0, length));
        program.extend(body);
    }
    // A convention that is not in the table.
    program.push(statement(RETURN, ERRNO_EPERM));
    program
}

/// What is done with the calls of one convention. Arguments are looked at last: the kernel remembers the verdict on a
/// number alone, and then runs no filter for it.
fn body(convention: &Convention) -> Vec<sock_filter> {
    let mut body = vec![statement(LOAD_WORD, SYSCALL), statement(AND, !X32_BIT)];
    for number in convention.refused {
        body.push(jump_if_equal(number, 0, 1));
        body.push(statement(RETURN, ERRNO_EPERM));
    }
    let requests = by_argument(SECOND_ARGUMENT, &REQUESTS, ERRNO_EPERM, ALLOW);
    let families = by_argument(FIRST_ARGUMENT, &FAMILIES.map(i32::cast_unsigned), ALLOW, ERRNO_EAFNOSUPPORT);
    let numbers = convention.ioctl.iter().map(|number| (number, &requests));
    for (number, judged) in numbers.chain(convention.socket.iter().map(|number| (number, &families))) {
        body.push(jump_if_equal(*number, 0, u8::try_from(judged.len()).expect("a handful of instructions")));
        body.extend(judged.iter().cloned());
    }
    body.push(statement(RETURN, ALLOW));
    body
}

/// Returns one verdict if an argument is one of these values, else the other.
fn by_argument(offset: u32, values: &[u32], found: u32, otherwise: u32) -> Vec<sock_filter> {
    let mut program = vec![statement(LOAD_WORD, offset)];
    for value in values {
        program.push(jump_if_equal(*value, 0, 1));
        program.push(statement(RETURN, found));
    }
    program.push(statement(RETURN, otherwise));
    program
}

fn statement(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}

fn jump_if_equal(k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: JUMP_IF_EQUAL, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would do, in the four instructions that the program uses.
    fn run(architecture: u32, syscall: u32, first: u32, second: u32) -> u32 {
        let program = program();
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at].clone();
            at += 1;
            match code {
                LOAD_WORD => {
                    accumulator = match k {
                        SYSCALL => syscall,
                        ARCHITECTURE => architecture,
                        FIRST_ARGUMENT => first,
                        _ => second,
                    }
                }
                AND => accumulator &= k,
                JUMP_IF_EQUAL => at += usize::from(if accumulator == k { jt } else { jf }),
                RETURN => return k,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    #[test]
    fn only_the_two_requests_are_refused_in_every_convention() {
        for Convention { architecture, ioctl, .. } in CONVENTIONS {
            for number in ioctl {
                for request in REQUESTS {
                    assert_eq!(run(architecture, *number, 0, request), ERRNO_EPERM);
                    assert_eq!(run(architecture, *number | X32_BIT, 0, request), ERRNO_EPERM);
                    assert_eq!(run(architecture, *number + 1, 0, request), ALLOW);
                }
                assert_eq!(run(architecture, *number, 0, 0x5401), ALLOW);
            }
        }
        assert_eq!(run(0, 16, 0, 0x5401), ERRNO_EPERM, "an unknown convention");
    }

    #[test]
    fn keyrings_and_io_uring_are_refused_whatever_the_arguments() {
        for Convention { architecture, refused, .. } in CONVENTIONS {
            for number in refused {
                assert_eq!(run(architecture, number, 0, 0), ERRNO_EPERM);
                assert_eq!(run(architecture, number | X32_BIT, 1, 1), ERRNO_EPERM);
            }
        }
    }

    #[test]
    fn sockets_of_the_families_that_are_judged_and_no_other() {
        for Convention { architecture, socket, .. } in CONVENTIONS {
            for number in [socket[0], socket[1], socket[0] | X32_BIT] {
                for family in 0_u32..64 {
                    let judged = FAMILIES.contains(&family.cast_signed());
                    let expected = if judged { ALLOW } else { ERRNO_EAFNOSUPPORT };
                    assert_eq!(run(architecture, number, family, 1), expected, "family {family}");
                }
            }
        }
    }
}
