//! Programs on an interface before Linux 6.6: filters below a clsact qdisc, by rtnetlink.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::NLM_F_CREATE;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{
    TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcMessage, TcOption,
};

use crate::kernel::KernelError;
use crate::kernel::attach::Hook;
use crate::kernel::netlink::Netlink;

/// The filters' number among those of the first priority: "EW", then the kernel's number for the hook.
const HANDLE: u32 = 0x4557_0000;
/// Nobody's filter may end a frame's way before ours has seen it.
const FIRST_PRIORITY: u32 = 1;
const ETH_P_ALL: u16 = 3;

/// Makes sure that the interface has this program. One that is there already gets the program in one step.
pub(super) fn attach(index: u32, hook: &'static Hook, program: BorrowedFd<'_>) -> Result<(), KernelError> {
    let netlink = Netlink::open().map_err(failed(index, hook))?;
    make_qdisc(&netlink, index, hook)?;
    let mut message = filter(index, hook);
    message.attributes.push(TcAttribute::Options(vec![
        TcOption::Bpf(TcFilterBpfOption::ProgFd(program.as_raw_fd().cast_unsigned())),
        TcOption::Bpf(TcFilterBpfOption::ProgName(format!("egress-warden/{}", hook.program))),
        TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
    ]));
    let asked = netlink.ask(RouteNetlinkMessage::NewTrafficFilter(message), NLM_F_CREATE);
    asked.map(drop).map_err(|error| match error.raw_os_error() {
        Some(libc::EINVAL) => KernelError::PriorityTaken { index, hook: hook.name },
        Some(libc::ENOENT) => KernelError::NoFilters,
        _ => failed(index, hook)(error),
    })
}

/// Takes it off again. The qdisc stays: others' filters may be below it, and empty it does nothing.
pub(super) fn detach(index: u32, hook: &'static Hook) -> Result<(), KernelError> {
    let message = RouteNetlinkMessage::DelTrafficFilter(filter(index, hook));
    match Netlink::open().and_then(|netlink| netlink.ask(message, 0)) {
        // None of ours, no qdisc, no interface.
        Err(error) if !matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::EINVAL)) => {
            Err(failed(index, hook)(error))
        }
        _ => Ok(()),
    }
}

/// Without "exclusive": somebody's clsact serves as well and is left as it is. The older `ingress` qdisc has its number and
/// is refused, because it takes filters of either direction and has all of them see what comes in.
fn make_qdisc(netlink: &Netlink, index: u32, hook: &'static Hook) -> Result<(), KernelError> {
    let mut qdisc = TcMessage::with_index(index.cast_signed());
    qdisc.header.parent = TcHandle::CLSACT;
    qdisc.header.handle = TcHandle { major: u16::MAX, minor: 0 };
    qdisc.attributes.push(TcAttribute::Kind("clsact".to_owned()));
    let asked = netlink.ask(RouteNetlinkMessage::NewQueueDiscipline(qdisc), NLM_F_CREATE);
    asked.map(drop).map_err(|error| match error.raw_os_error() {
        Some(libc::EINVAL) => KernelError::IngressQdisc { index },
        Some(libc::ENOENT) => KernelError::NoFilters,
        _ => failed(index, hook)(error),
    })
}

fn filter(index: u32, hook: &Hook) -> TcMessage {
    let minor = if hook.is_ingress() { TcHandle::MIN_INGRESS } else { TcHandle::MIN_EGRESS };
    let mut message = TcMessage::with_index(index.cast_signed());
    message.header.parent = TcHandle { major: u16::MAX, minor };
    message.header.handle = TcHandle::from(HANDLE | hook.attach_type);
    message.header.info = FIRST_PRIORITY << 16 | u32::from(ETH_P_ALL.to_be());
    message.attributes.push(TcAttribute::Kind(TcFilterBpf::KIND.to_owned()));
    message
}

fn failed(index: u32, hook: &'static Hook) -> impl FnOnce(io::Error) -> KernelError {
    move |source| KernelError::Interface { index, hook: hook.name, source }
}
