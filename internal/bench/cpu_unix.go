//go:build unix

package bench

import (
	"math"
	"syscall"
)

// ownCPU is the CPU seconds of this process; NaN where the system does not tell.
func ownCPU() float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return math.NaN()
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}
