//! From the registers and the stack of a thread to the addresses of its callers.
//!
//! Works on a copy of the stack, so a rule that is wrong ends the list and does no harm.
//!
//! **Source**: DWARF 5, section 6.4; the register numbers of the two processor ABIs.

use gimli::{CfaRule, RegisterRule, UnwindContext, UnwindSection};

use super::modules::Module;

/// Registers that rules may name: 16 and the return address, or 31 and the stack pointer.
pub const REGISTERS: usize = 33;

#[cfg(target_arch = "x86_64")]
pub const STACK_POINTER: usize = 7;
#[cfg(target_arch = "aarch64")]
pub const STACK_POINTER: usize = 31;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub const STACK_POINTER: usize = 0;

/// Whether this processor's registers are known here.
pub const IS_SUPPORTED: bool = cfg!(any(target_arch = "x86_64", target_arch = "aarch64"));

/// A stack that is deeper is cut.
const DEEPEST: usize = 256;

/// What a thread was doing.
#[derive(Clone, Copy, Debug)]
pub struct Moment<'a> {
    /// Where it was.
    pub address: u64,
    /// Its registers by DWARF's numbers.
    pub registers: [u64; REGISTERS],
    /// Its stack from the stack pointer on.
    pub stack: &'a [u8],
}

/// The addresses of a moment, innermost first. All but the first are behind a call.
pub fn unwind(moment: &Moment<'_>, modules: &[Module], context: &mut UnwindContext<usize>) -> Vec<u64> {
    let mut found = vec![moment.address];
    let mut frame = Frame { address: moment.address, registers: moment.registers.map(Some) };
    let stack_start = moment.registers[STACK_POINTER];
    let read = |address: u64| {
        let at = usize::try_from(address.checked_sub(stack_start)?).ok()?;
        Some(u64::from_le_bytes(moment.stack.get(at..at.checked_add(8)?)?.try_into().ok()?))
    };
    while found.len() < DEEPEST {
        // A return address may lie behind the end of a function that does not return.
        let place = if found.len() == 1 { frame.address } else { frame.address - 1 };
        let Some(module) = modules.iter().find(|module| module.has_code_at(place)) else { break };
        match frame.caller(place, module, context, &read) {
            Some(next) if next.address > 1 => {
                found.push(next.address);
                frame = next;
            }
            _ => break,
        }
    }
    found
}

struct Frame {
    address: u64,
    registers: [Option<u64>; REGISTERS],
}

impl Frame {
    fn caller(
        &self,
        place: u64,
        module: &Module,
        context: &mut UnwindContext<usize>,
        read: &impl Fn(u64) -> Option<u64>,
    ) -> Option<Self> {
        let tables = module.tables()?;
        let table = tables.header.table()?;
        let find = |frames: &gimli::EhFrame<_>, bases: &gimli::BaseAddresses, offset| {
            frames.cie_from_offset(bases, offset)
        };
        let rules = table.fde_for_address(&tables.frames, &tables.bases, place, find).ok()?;
        let row = rules.unwind_info_for_address(&tables.frames, &tables.bases, context, place).ok()?;
        let before = |register: gimli::Register| *self.registers.get(usize::from(register.0))?;
        let top = match row.cfa() {
            CfaRule::RegisterAndOffset { register, offset } => {
                before(*register)?.wrapping_add_signed(*offset)
            }
            // Only the stubs between libraries have these.
            CfaRule::Expression(_) => return None,
        };
        let mut registers = self.registers;
        registers[STACK_POINTER] = Some(top);
        let return_register = usize::from(rules.cie().return_address_register().0);
        for (register, rule) in row.registers() {
            let value = match rule {
                RegisterRule::SameValue => continue,
                RegisterRule::Offset(offset) => read(top.wrapping_add_signed(*offset)),
                RegisterRule::ValOffset(offset) => Some(top.wrapping_add_signed(*offset)),
                RegisterRule::Register(other) => before(*other),
                _ => None,
            };
            *registers.get_mut(usize::from(register.0))? = value;
        }
        // Signed return addresses carry the signature in their upper bits.
        let address = registers.get(return_register).copied().flatten()? & 0x0000_ffff_ffff_ffff;
        Some(Self { address, registers })
    }
}
