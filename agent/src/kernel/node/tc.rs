//! Programs on an interface: by a pinned link where the kernel has tcx (6.6), by a filter below a clsact qdisc where it
//! does not. A filter needs no pin: it stays as long as the interface does.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{
    TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcMessage, TcOption,
};

use super::NodeError;
use super::link::Link;
use super::programs::remove;
use crate::kernel::KernelError;
use crate::kernel::attach::Hook;
use crate::kernel::netlink::Netlink;

/// The filters' number among those of the first priority: "EW", then the kernel's number for the hook.
const HANDLE: u32 = 0x4557_0000;
const FIRST_PRIORITY: u32 = 1;
const ETH_P_ALL: u16 = 3;
/// What bpf(2) says of a link to an interface before 6.6.
const NO_TCX: i32 = libc::EINVAL;

/// Makes sure that an interface of the agent's network namespace has this program. `pins` is the interface's directory.
pub(super) fn attach(
    pins: &Path,
    index: u32,
    hook: &'static Hook,
    program: BorrowedFd<'_>,
    id: u32,
) -> Result<(), NodeError> {
    let pin = pins.join(hook.program);
    let failed = |source| NodeError::from(KernelError::Interface { index, hook: hook.name, source });
    if keep(&pin, index, hook, program, id)? {
        return Ok(());
    }
    match Link::create_on(program, index, hook.attach_type) {
        Ok(link) => link.pin(&pin).map_err(NodeError::pin("pin a link at", &pin)),
        Err(error) if error.raw_os_error() == Some(NO_TCX) => filter(index, hook, program).map_err(failed),
        Err(error) => Err(failed(error)),
    }
}

/// Takes it off again. An interface that is gone took it along.
pub(super) fn detach(pins: &Path, index: u32, hook: &'static Hook) -> Result<(), NodeError> {
    let pin = pins.join(hook.program);
    let failed = |source| NodeError::from(KernelError::Interface { index, hook: hook.name, source });
    match Link::open(&pin) {
        Ok(link) => match link.detach() {
            // Its interface is gone.
            Err(error) if error.raw_os_error() != Some(libc::ENOLINK) => Err(failed(error)),
            _ => remove(&pin),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => unfilter(index, hook).map_err(failed),
        Err(error) => Err(NodeError::pin("open the link at", &pin)(error)),
    }
}

/// Is there a link already? One with another program gets this one, one whose interface is gone goes.
fn keep(pin: &Path, index: u32, hook: &Hook, program: BorrowedFd<'_>, id: u32) -> Result<bool, NodeError> {
    let failed = || NodeError::pin("open the link at", pin);
    let link = match Link::open(pin) {
        Ok(link) => link,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed()(error)),
    };
    let info = link.info().map_err(failed())?;
    if !info.is_on(index, hook.attach_type) {
        remove(pin)?;
        return Ok(false);
    }
    if info.program != id {
        link.replace_program(program).map_err(NodeError::pin("put the new program into the link at", pin))?;
    }
    Ok(true)
}

fn parent(hook: &Hook) -> TcHandle {
    let minor = if hook.program == "backstop" { TcHandle::MIN_INGRESS } else { TcHandle::MIN_EGRESS };
    TcHandle { major: u16::MAX, minor }
}

fn filter_message(index: u32, hook: &Hook) -> TcMessage {
    let mut message = TcMessage::with_index(index.cast_signed());
    message.header.parent = parent(hook);
    message.header.handle = TcHandle::from(HANDLE | hook.attach_type);
    message.header.info = FIRST_PRIORITY << 16 | u32::from(ETH_P_ALL.to_be());
    message.attributes.push(TcAttribute::Kind(TcFilterBpf::KIND.to_owned()));
    message
}

fn filter(index: u32, hook: &Hook, program: BorrowedFd<'_>) -> io::Result<()> {
    let netlink = Netlink::open()?;
    let mut qdisc = TcMessage::with_index(index.cast_signed());
    qdisc.header.parent = TcHandle::CLSACT;
    qdisc.header.handle = TcHandle { major: u16::MAX, minor: 0 };
    qdisc.attributes.push(TcAttribute::Kind("clsact".to_owned()));
    match netlink.ask(RouteNetlinkMessage::NewQueueDiscipline(qdisc), NLM_F_CREATE | NLM_F_EXCL) {
        // Somebody's is there already and serves both.
        Err(error) if error.raw_os_error() != Some(libc::EEXIST) => return Err(error),
        _ => {}
    }
    let mut message = filter_message(index, hook);
    // Without "exclusive": one with this number is ours, and gets the program in one step.
    message.attributes.push(TcAttribute::Options(vec![
        TcOption::Bpf(TcFilterBpfOption::ProgFd(program.as_raw_fd().cast_unsigned())),
        TcOption::Bpf(TcFilterBpfOption::ProgName(format!("egress-warden/{}", hook.program))),
        TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
    ]));
    netlink.ask(RouteNetlinkMessage::NewTrafficFilter(message), NLM_F_CREATE).map(drop)
}

/// The qdisc stays: others' filters may be below it, and empty it does nothing.
fn unfilter(index: u32, hook: &Hook) -> io::Result<()> {
    let message = RouteNetlinkMessage::DelTrafficFilter(filter_message(index, hook));
    match Netlink::open()?.ask(message, 0) {
        Err(error) if !matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::EINVAL)) => {
            Err(error)
        }
        _ => Ok(()),
    }
}

/// Makes the directory of an interface's pins.
pub(super) fn make(pins: &Path) -> Result<(), NodeError> {
    fs::create_dir_all(pins).map_err(NodeError::pin("make", pins))
}
