//! A small assembler of eBPF: instructions, labels, jumps. So no compiler for eBPF is needed, neither to build nor to
//! run.
//!
//! The encoding is that of the kernel's `Documentation/bpf/standardization/instruction-set.rst` (RFC 9669).

/// A register: r0 is a call's result, r1 to r5 its arguments, r6 to r9 survive it, r10 points behind the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Reg {
    R0,
    R1,
    R2,
    R3,
    R4,
    R6 = 6,
    R7,
    R8,
    R9,
    Stack, // r10
}

/// How wide a load or store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Width {
    Word = 0x00,
    Half = 0x08,
    Byte = 0x10,
    Double = 0x18,
}

/// What a register is compared for, with a constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum If {
    Equal = 0x15,
    AnyBit = 0x45,
    Not = 0x55,
    Below = 0xa5,
}

/// What is done to a register with a constant (or, for `Add`, with another register).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Op {
    Add = 0x07,
    And = 0x57,
    ShiftLeft = 0x67,
    ShiftRight = 0x77,
    Set = 0xb7,
}

/// A place to jump to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a label must be placed"]
pub(super) struct Label(usize);

/// Why a program cannot be finished: it is wrong as written, whatever the kernel would say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum AsmError {
    /// A jump leads to a label that was never placed.
    #[error("a jump leads nowhere")]
    Nowhere,
    /// A jump is longer than an instruction can say.
    #[error("a jump is too long")]
    TooFar,
}

/// A program in the making.
#[derive(Default)]
pub(super) struct Asm {
    code: Vec<u64>,
    labels: Vec<Option<usize>>,
    jumps: Vec<(usize, Label)>,
}

impl Asm {
    /// A new label, not yet placed.
    pub(super) fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// The next instruction is where `label` is.
    pub(super) fn place(&mut self, label: Label) {
        if let Some(place) = self.labels.get_mut(label.0) {
            *place = Some(self.code.len());
        }
    }

    /// `dst = src`.
    pub(super) fn copy(&mut self, dst: Reg, src: Reg) {
        self.emit(0xbf, dst, src as u8, 0, 0);
    }

    /// `dst += src`.
    pub(super) fn add(&mut self, dst: Reg, src: Reg) {
        self.emit(0x0f, dst, src as u8, 0, 0);
    }

    /// `dst = dst op value`.
    pub(super) fn op(&mut self, op: Op, dst: Reg, value: i32) {
        self.emit(op as u8, dst, 0, 0, value);
    }

    /// `dst = *(src + at)`.
    pub(super) fn load(&mut self, width: Width, dst: Reg, src: Reg, at: i16) {
        self.emit(0x61 | width as u8, dst, src as u8, at, 0);
    }

    /// `*(dst + at) = src`.
    pub(super) fn store(&mut self, width: Width, dst: Reg, at: i16, src: Reg) {
        self.emit(0x63 | width as u8, dst, src as u8, at, 0);
    }

    /// `*(stack + at) = value`.
    pub(super) fn put(&mut self, width: Width, at: i16, value: i32) {
        self.emit(0x62 | width as u8, Reg::Stack, 0, at, value);
    }

    /// Goes on at `to`.
    pub(super) fn jump(&mut self, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.emit(0x05, Reg::R0, 0, 0, 0);
    }

    /// Goes on at `to` when `reg` compares so with `value`.
    pub(super) fn jump_if(&mut self, how: If, reg: Reg, value: i32, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.emit(how as u8, reg, 0, 0, value);
    }

    /// Goes on at `to` when `a` is above `b`.
    pub(super) fn jump_if_above(&mut self, a: Reg, b: Reg, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.emit(0x2d, a, b as u8, 0, 0);
    }

    /// `dst` = the map with this descriptor.
    pub(super) fn map(&mut self, dst: Reg, descriptor: i32) {
        self.emit(0x18, dst, 1, 0, descriptor);
        self.code.push(0);
    }

    /// Calls a function of the kernel.
    pub(super) fn call(&mut self, function: i32) {
        self.emit(0x85, Reg::R0, 0, 0, function);
    }

    /// Ends with r0.
    pub(super) fn exit(&mut self) {
        self.emit(0x95, Reg::R0, 0, 0, 0);
    }

    /// The program, every jump resolved.
    pub(super) fn finish(mut self) -> Result<Vec<u64>, AsmError> {
        for (at, label) in self.jumps {
            let place = self.labels.get(label.0).copied().flatten().ok_or(AsmError::Nowhere)?;
            let distance = place as isize - at as isize - 1;
            let distance = i16::try_from(distance).map_err(|_| AsmError::TooFar)?;
            if let Some(code) = self.code.get_mut(at) {
                *code |= u64::from(distance.cast_unsigned()) << 16;
            }
        }
        Ok(self.code)
    }

    // One instruction is 8 bytes: opcode, two registers, 16 bits of offset, 32 of constant; in the order of a little
    // endian machine, the only kind that we build for.
    fn emit(&mut self, opcode: u8, dst: Reg, src: u8, offset: i16, constant: i32) {
        let registers = dst as u8 | src << 4;
        self.code.push(
            u64::from(opcode)
                | u64::from(registers) << 8
                | u64::from(offset.cast_unsigned()) << 16
                | u64::from(constant.cast_unsigned()) << 32,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodes_as_the_kernel_reads() {
        let mut asm = Asm::default();
        let end = asm.label();
        asm.copy(Reg::R6, Reg::R1);
        asm.load(Width::Word, Reg::R2, Reg::R1, 16);
        asm.jump_if(If::Not, Reg::R2, 7, end);
        asm.put(Width::Word, -4, 1);
        asm.map(Reg::R1, 5);
        asm.place(end);
        asm.op(Op::Set, Reg::R0, 2);
        asm.exit();
        let bytes = |code: [u8; 8]| u64::from_le_bytes(code);
        assert_eq!(
            asm.finish().unwrap(),
            [
                bytes([0xbf, 0x16, 0, 0, 0, 0, 0, 0]),
                bytes([0x61, 0x12, 16, 0, 0, 0, 0, 0]),
                bytes([0x55, 0x02, 3, 0, 7, 0, 0, 0]),
                bytes([0x62, 0x0a, 0xfc, 0xff, 1, 0, 0, 0]),
                bytes([0x18, 0x11, 0, 0, 5, 0, 0, 0]),
                0,
                bytes([0xb7, 0x00, 0, 0, 2, 0, 0, 0]),
                bytes([0x95, 0, 0, 0, 0, 0, 0, 0]),
            ]
        );
    }

    #[test]
    fn a_jump_to_nowhere_or_too_far_is_refused() {
        let mut asm = Asm::default();
        let label = asm.label();
        asm.jump(label);
        assert_eq!(asm.finish(), Err(AsmError::Nowhere));
        let mut asm = Asm::default();
        let label = asm.label();
        asm.jump(label);
        (0..40_000).for_each(|_| asm.exit());
        asm.place(label);
        assert_eq!(asm.finish(), Err(AsmError::TooFar));
    }
}
