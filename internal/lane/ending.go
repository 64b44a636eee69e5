package lane

// outcome is how a lease ended.
type outcome uint8

const (
	unsettled outcome = iota
	accepted
	released
	rejected
	returned
	expired
	calledOff // taken back by the lane
)

// maxEndings is how many of the newest leases a lane remembers at most: more than fit in a window, in 256 KiB.
const maxEndings = 32_768

// endings is a ring of how the newest leases ended: serial<<3 | outcome at serial & mask.
type endings struct{ ring []uint64 }

func (e *endings) put(serial uint64, how outcome) {
	if e.ring == nil {
		e.ring = make([]uint64, 256)
	}
	e.ring[serial&uint64(len(e.ring)-1)] = serial<<3 | uint64(how)
}

func (e *endings) get(serial uint64) outcome {
	if e.ring == nil {
		return unsettled
	}
	if v := e.ring[serial&uint64(len(e.ring)-1)]; v>>3 == serial {
		return outcome(v & 7)
	}
	return unsettled
}

func (e *endings) grow(window int) {
	size := min(2*window, maxEndings)
	if size <= len(e.ring) {
		return
	}
	old := e.ring
	e.ring = make([]uint64, size)
	for _, v := range old {
		if v != 0 {
			e.ring[v>>3&uint64(size-1)] = v
		}
	}
}
