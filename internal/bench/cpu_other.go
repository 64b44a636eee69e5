//go:build !unix

package bench

import "math"

// ownCPU is the CPU seconds of this process; this system does not tell.
func ownCPU() float64 { return math.NaN() }
