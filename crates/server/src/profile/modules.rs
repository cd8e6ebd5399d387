//! The program and its libraries as they lie in memory: what an address belongs to, and how its
//! function keeps its stack.
//!
//! Everything is found where the loader put it, so nothing has to be opened to unwind. Names of functions
//! come from the symbol tables in the files; a stripped file has only the names it exports.
//!
//! **Source**: ELF-64, `dl_iterate_phdr(3)`, the unwind tables of the Linux Standard Base
//! (`.eh_frame_hdr`).

use std::ffi::{CStr, c_int, c_void};
use std::fs::File;
use std::os::unix::fs::FileExt;

use gimli::{BaseAddresses, EhFrame, EhFrameHdr, LittleEndian};

/// A part of a module in memory.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// Its first byte.
    pub start: u64,
    /// Behind its last.
    pub end: u64,
    /// Where it begins in the file.
    pub offset: u64,
    is_code: bool,
}

/// The program, or a library.
#[derive(Debug)]
pub struct Module {
    /// Path of the file.
    pub path: String,
    /// What is added to the addresses in the file.
    bias: u64,
    segments: Vec<Segment>,
    /// Identifies the build, in hexadecimal.
    pub build_id: String,
    tables: Option<Tables>,
    symbols: Symbols,
}

/// How functions keep their stacks.
#[derive(Debug)]
pub struct Tables {
    /// All rules.
    pub frames: EhFrame<gimli::EndianSlice<'static, LittleEndian>>,
    /// Where to find which.
    pub header: gimli::ParsedEhFrameHdr<gimli::EndianSlice<'static, LittleEndian>>,
    /// Where both lie.
    pub bases: BaseAddresses,
}

impl Module {
    /// Whether an address lies in its code.
    pub fn has_code_at(&self, address: u64) -> bool {
        self.segments.iter().any(|segment| segment.is_code && (segment.start..segment.end).contains(&address))
    }

    /// The rules for unwinding.
    pub fn tables(&self) -> Option<&Tables> {
        self.tables.as_ref()
    }

    /// The part that holds the code.
    pub fn code(&self) -> Option<Segment> {
        self.segments.iter().find(|segment| segment.is_code).copied()
    }

    /// Name of the function at an address.
    pub fn function(&self, address: u64) -> Option<String> {
        self.symbols.find(address.wrapping_sub(self.bias))
    }
}

/// All that is loaded now.
pub fn loaded() -> Vec<Module> {
    unsafe extern "C" fn add(info: *mut libc::dl_phdr_info, _: libc::size_t, modules: *mut c_void) -> c_int {
        // SAFETY: the loader passes a description that is valid during the call, and the pointer that was
        // given to it below.
        let (info, modules) = unsafe { (&*info, &mut *modules.cast::<Vec<Module>>()) };
        modules.push(describe(info));
        0
    }
    let mut modules: Vec<Module> = Vec::new();
    // SAFETY: `add` keeps to the interface, and the list outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(add), (&raw mut modules).cast()) };
    modules
}

fn describe(info: &libc::dl_phdr_info) -> Module {
    let bias = info.dlpi_addr;
    // SAFETY: the loader says where the program headers are and how many.
    let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
    let of_kind = |kind| headers.iter().filter(move |header| header.p_type == kind);
    let segments: Vec<Segment> = of_kind(libc::PT_LOAD)
        .map(|header| Segment {
            start: bias + header.p_vaddr,
            end: bias + header.p_vaddr + header.p_memsz,
            offset: header.p_offset,
            is_code: header.p_flags & libc::PF_X != 0,
        })
        .collect();
    let name = match info.dlpi_name.is_null() {
        true => String::new(),
        // SAFETY: a name of the loader ends with a zero.
        false => unsafe { CStr::from_ptr(info.dlpi_name) }.to_string_lossy().into_owned(),
    };
    // The program itself has no name.
    let (path, file) = match name.as_str() {
        "" => {
            let path = std::fs::read_link("/proc/self/exe").unwrap_or_default();
            (path.to_string_lossy().into_owned(), "/proc/self/exe".to_owned())
        }
        name => (name.to_owned(), name.to_owned()),
    };
    let build_id = of_kind(libc::PT_NOTE)
        .find_map(|header| build_id(memory(&segments, bias + header.p_vaddr, header.p_memsz)?))
        .unwrap_or_default();
    let tables = of_kind(libc::PT_GNU_EH_FRAME)
        .next()
        .and_then(|header| tables(&segments, bias + header.p_vaddr, header.p_memsz));
    Module { path, bias, segments, build_id, tables, symbols: Symbols::read(&file).unwrap_or_default() }
}

/// Bytes of a loaded segment.
fn memory(segments: &[Segment], start: u64, length: u64) -> Option<&'static [u8]> {
    let end = start.checked_add(length)?;
    segments.iter().find(|segment| segment.start <= start && end <= segment.end)?;
    // SAFETY: the loader mapped this range for reading, and nothing that is loaded is unloaded: this
    // program never closes a library. The parts read here (tables and notes) are never written.
    Some(unsafe { std::slice::from_raw_parts(start as *const u8, usize::try_from(length).ok()?) })
}

fn tables(segments: &[Segment], start: u64, length: u64) -> Option<Tables> {
    let bases = BaseAddresses::default().set_eh_frame_hdr(start);
    let bytes = memory(segments, start, length)?;
    let header = EhFrameHdr::new(bytes, LittleEndian).parse(&bases, 8).ok()?;
    let gimli::Pointer::Direct(frames) = header.eh_frame_ptr() else { return None };
    // The header does not say how long the rules are: they end with an empty one, within their segment.
    let segment = segments.iter().find(|segment| (segment.start..segment.end).contains(&frames))?;
    let rules = memory(segments, frames, segment.end - frames)?;
    Some(Tables { frames: EhFrame::new(rules, LittleEndian), header, bases: bases.set_eh_frame(frames) })
}

/// The note of the linker, in hexadecimal.
fn build_id(notes: &[u8]) -> Option<String> {
    const KIND: u32 = 3;
    let mut rest = notes;
    loop {
        let (head, behind) = rest.split_at_checked(12)?;
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (name_len, desc_len) = (word(0) as usize, word(4) as usize);
        let (name, behind) = behind.split_at_checked(name_len.next_multiple_of(4))?;
        let (desc, behind) = behind.split_at_checked(desc_len.next_multiple_of(4))?;
        if word(8) == KIND && name.starts_with(b"GNU\0") {
            return Some(desc[..desc_len].iter().map(|byte| format!("{byte:02x}")).collect());
        }
        rest = behind;
    }
}

/// Functions of a file, by their address in it.
#[derive(Debug, Default)]
struct Symbols {
    /// Address, length, place of the name.
    functions: Vec<(u64, u64, usize)>,
    names: Vec<u8>,
}

impl Symbols {
    /// Reads the larger of the two tables that a file may have.
    fn read(path: &str) -> Option<Self> {
        let file = File::open(path).ok()?;
        let head = read_at(&file, 0, 64)?;
        if head.get(..6)? != b"\x7fELF\x02\x01" {
            return None;
        }
        let (place, size, count) = (u64_at(&head, 40)?, u16_at(&head, 58)?, u16_at(&head, 60)?);
        let headers = read_at(&file, place, usize::from(size) * usize::from(count))?;
        let sections: Vec<&[u8]> = headers.chunks_exact(usize::from(size).max(64)).collect();
        let of_kind = |kind: u32| sections.iter().find(|section| u32_at(section, 4) == Some(kind));
        const SYMTAB: u32 = 2;
        const DYNSYM: u32 = 11;
        let table = of_kind(SYMTAB).or_else(|| of_kind(DYNSYM))?;
        let names = sections.get(u32_at(table, 40)? as usize)?;
        let content = |section: &[u8]| {
            read_at(&file, u64_at(section, 24)?, usize::try_from(u64_at(section, 32)?).ok()?)
        };
        let (symbols, names) = (content(table)?, content(names)?);
        let mut functions: Vec<(u64, u64, usize)> = symbols
            .chunks_exact(24)
            .filter(|symbol| symbol[4] & 0xf == 2)
            .filter_map(|symbol| Some((u64_at(symbol, 8)?, u64_at(symbol, 16)?, u32_at(symbol, 0)? as usize)))
            .filter(|(address, ..)| *address != 0)
            .collect();
        functions.sort_unstable();
        Some(Self { functions, names })
    }

    fn find(&self, address: u64) -> Option<String> {
        let behind = self.functions.partition_point(|(start, ..)| *start <= address);
        let (start, length, name) = *self.functions.get(behind.checked_sub(1)?)?;
        if address - start >= length.max(1) {
            return None;
        }
        let name = self.names.get(name..)?.split(|byte| *byte == 0).next()?;
        let name = std::str::from_utf8(name).ok()?;
        Some(format!("{:#}", rustc_demangle::demangle(name)))
    }
}

/// No table of a file that we could be is longer.
const LONGEST: usize = 256 << 20;

fn read_at(file: &File, place: u64, length: usize) -> Option<Vec<u8>> {
    if length > LONGEST {
        return None;
    }
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, place).ok()?;
    Some(bytes)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_finds_itself() {
        let modules = loaded();
        let address = tables as *const () as u64;
        let own = modules.iter().find(|module| module.has_code_at(address)).expect("our own code");
        assert_eq!(own.function(address).as_deref(), Some("server::profile::modules::tables"));
        assert!(own.tables().is_some());
        assert!(modules.iter().any(|module| module.path.contains("libc")));
    }

    #[test]
    fn notes_are_read() {
        let note = b"\x04\0\0\0\x03\0\0\0\x03\0\0\0GNU\0\xab\xcd\xef\0";
        assert_eq!(build_id(note).as_deref(), Some("abcdef"));
        assert_eq!(build_id(&note[..18]), None);
        assert_eq!(build_id(b""), None);
    }
}
