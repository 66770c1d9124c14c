//! The one thing that capabilities and namespaces do not stop: typing into the caller's terminal. With TIOCSTI, or
//! TIOCLINUX on a console, CMD would leave commands behind for the shell outside to run.

use seccompiler::{apply_filter, sock_filter};

// From linux/audit.h, linux/bpf_common.h and linux/seccomp.h.
const LOAD_WORD: u16 = 0x20;
const JUMP_IF_EQUAL: u16 = 0x15;
const AND: u16 = 0x54;
const RETURN: u16 = 0x06;
const ALLOW: u32 = 0x7fff_0000;
const ERRNO_EPERM: u32 = 0x0005_0000 | 1;

// Offsets in `struct seccomp_data`. The request of ioctl is 32 bits wide; its low half is what the kernel reads.
const SYSCALL: u32 = 0;
const ARCHITECTURE: u32 = 4;
const SECOND_ARGUMENT: u32 = 24;

const TIOCSTI: u32 = 0x5412;
const TIOCLINUX: u32 = 0x541c;

/// Each calling convention a process can use here, with its numbers of ioctl. Written by hand, not by the crate's
/// compiler, because that one knows a single convention and kills every 32-bit program.
#[cfg(target_arch = "x86_64")]
const IOCTL: &[(u32, &[u32])] = &[(0xc000_003e, &[16, 514]), (0x4000_0003, &[54])];
#[cfg(target_arch = "aarch64")]
const IOCTL: &[(u32, &[u32])] = &[(0xc000_00b7, &[29]), (0x4000_0028, &[54])];

/// The bit that marks a call of the x32 convention, whose ioctl is 514. Set nowhere else.
const X32_BIT: u32 = 0x4000_0000;

/// Forbids both requests for the calling thread and all its descendants, and sets no_new_privs.
pub(super) fn forbid_typing_into_terminals() -> Result<(), seccompiler::Error> {
    apply_filter(&program())
}

fn program() -> Vec<sock_filter> {
    let deny = statement(RETURN, ERRNO_EPERM);
    let allow = statement(RETURN, ALLOW);
    // Nearly every call ends after these four instructions, whatever its number.
    let mut program = vec![
        statement(LOAD_WORD, SECOND_ARGUMENT),
        jump_if_equal(TIOCSTI, 2, 0),
        jump_if_equal(TIOCLINUX, 1, 0),
        allow.clone(),
        statement(LOAD_WORD, ARCHITECTURE),
    ];
    for (architecture, numbers) in IOCTL {
        // Per number a comparison and a return; before them the load and the mask, after them the last return.
        let body = u8::try_from(2 * numbers.len() + 3).expect("a handful of instructions");
        program.push(jump_if_equal(*architecture, 0, body));
        program.push(statement(LOAD_WORD, SYSCALL));
        program.push(statement(AND, !X32_BIT));
        for number in *numbers {
            program.push(jump_if_equal(*number, 0, 1));
            program.push(deny.clone());
        }
        program.push(allow.clone());
    }
    // A convention that is not in the table.
    program.push(deny);
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
    fn run(program: &[sock_filter], architecture: u32, syscall: u32, second: u32) -> u32 {
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at].clone();
            at += 1;
            match code {
                LOAD_WORD if k == SYSCALL => accumulator = syscall,
                LOAD_WORD if k == ARCHITECTURE => accumulator = architecture,
                LOAD_WORD => accumulator = second,
                AND => accumulator &= k,
                JUMP_IF_EQUAL => at += usize::from(if accumulator == k { jt } else { jf }),
                RETURN => return k,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    #[test]
    fn only_the_two_requests_are_refused_in_every_convention() {
        let program = program();
        for (architecture, numbers) in IOCTL {
            for number in *numbers {
                for request in [TIOCSTI, TIOCLINUX] {
                    assert_eq!(run(&program, *architecture, *number, request), ERRNO_EPERM);
                    assert_eq!(run(&program, *architecture, *number | X32_BIT, request), ERRNO_EPERM);
                    assert_eq!(run(&program, *architecture, *number + 1, request), ALLOW);
                }
                assert_eq!(run(&program, *architecture, *number, 0x5401), ALLOW);
            }
        }
        assert_eq!(run(&program, 0, 16, TIOCSTI), ERRNO_EPERM);
    }
}
