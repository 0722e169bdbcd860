package queue

// Both sides can ask not to be notified: by a flag in the ring that they write, or, if
// VIRTIO_F_EVENT_IDX is negotiated, by naming the index at which they next want to hear of the other
// side. It is a hint in the flag's case; a device or driver always looks once more after it has asked
// for notifications, since what came just before was not notified.

// DisableNotify asks the driver not to announce new chains. With event indices there is nothing to
// do: the driver is silent until the index asked for by EnableNotify comes by.
func (q *Queue) DisableNotify() error {
	if q.stopped || q.opt.EventIdx {
		return nil
	}
	return q.mem.StoreUint16(q.cfg.Used, usedNoNotify)
}

// EnableNotify asks the driver to announce the next chain, and tells whether there is one already,
// which would not be announced.
func (q *Queue) EnableNotify() (more bool, err error) {
	if q.stopped {
		return false, nil
	}
	if q.opt.EventIdx {
		err = q.mem.StoreUint16(q.cfg.Used+ringHead+usedSize*uint64(q.cfg.Size), q.lastAvail)
	} else {
		err = q.mem.StoreUint16(q.cfg.Used, 0)
	}
	if err != nil {
		return false, err
	}
	// The store is visible before this load is done: see guestmem.
	n, err := q.reload()
	return n != 0, err
}

// wantsInterrupt decides, after the used index was stored, whether the driver waits for it.
func (q *Queue) wantsInterrupt() (bool, error) {
	if !q.opt.EventIdx {
		flags, err := q.mem.LoadUint16(q.cfg.Avail)
		return flags&availNoInterrupt == 0, err
	}
	event, err := q.mem.LoadUint16(q.cfg.Avail + ringHead + 2*uint64(q.cfg.Size))
	if err != nil {
		return false, err
	}
	wants := q.fresh || passed(event, q.signalled, q.published)
	q.fresh, q.signalled = false, q.published
	return wants, nil
}

// passed tells whether the index went past event on its way from one value to another: the
// vring_need_event of the specification.
func passed(event, from, to uint16) bool {
	return to-event-1 < to-from
}

// Await returns the driver's index: how many chains it has ever made available, modulo 1<<16. It asks
// the driver to announce the next one, even if others wait that the device does not take.
func (q *Queue) Await() (idx uint16, err error) {
	if q.stopped {
		return q.availIdx, nil
	}
	if _, err := q.reload(); err != nil {
		return 0, err
	}
	if q.opt.EventIdx {
		err = q.mem.StoreUint16(q.cfg.Used+ringHead+usedSize*uint64(q.cfg.Size), q.availIdx)
	} else {
		err = q.mem.StoreUint16(q.cfg.Used, 0)
	}
	if err != nil {
		return 0, err
	}
	_, err = q.reload()
	return q.availIdx, err
}
