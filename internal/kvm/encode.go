package kvm

import "github.com/aethervm/aether/internal/codec"

// Append appends the encoded state to b.
func (s *VCPUState) Append(b []byte) []byte {
	b = codec.Append(codec.Append(b, s.Regs), s.Sregs)
	b = codec.AppendCount(b, len(s.MSRs))
	for _, m := range s.MSRs {
		b = codec.Append(codec.Append(b, m.Index), m.Data)
	}
	b = codec.Append(b, s.HasLAPIC)
	for _, part := range [][]byte{s.xcrs[:], s.xsave[:], s.debugRegs[:], s.lapic[:], s.events[:]} {
		b = append(b, part...)
	}
	return codec.Append(b, [2]uint32{uint32(s.mpState), s.TSCKHz})
}

// DecodeVCPUState reads what Append has written. Errors are the decoder's. What the state says is not
// judged: that is for the kernel, when it is set.
func DecodeVCPUState(d *codec.Decoder) *VCPUState {
	s := &VCPUState{}
	d.Value(&s.Regs)
	d.Value(&s.Sregs)
	for range d.Count(maxMSREntries) {
		var m MSREntry
		d.Value(&m.Index)
		d.Value(&m.Data)
		if d.Err() != nil {
			break
		}
		s.MSRs = append(s.MSRs, m)
	}
	s.HasLAPIC = d.Bool()
	for _, part := range [][]byte{s.xcrs[:], s.xsave[:], s.debugRegs[:], s.lapic[:], s.events[:]} {
		d.Fill(part)
	}
	var last [2]uint32
	d.Value(&last)
	s.mpState, s.TSCKHz = mpState(last[0]), last[1]
	return s
}
