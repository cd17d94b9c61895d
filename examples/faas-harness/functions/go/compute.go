package main

import (
	"fmt"
	"math"
	"math/bits"
	"math/cmplx"
)

const (
	fibonacciNumber = 1_000_000_000
	fftPoints       = 1 << 20
	matrixOrder     = 1024
	allocatedBytes  = 50 << 20
	pageBytes       = 4096
)

// fibonacci is the 10^9th Fibonacci number modulo 2^64, by iteration.
func fibonacci() (string, error) {
	a, b := uint64(0), uint64(1)
	for i := 0; i < fibonacciNumber; i++ {
		a, b = b, a+b
	}
	return fmt.Sprint(a), nil
}

// fft transforms 2^20 points, in place, and gives the energy of the spectrum, which tells whether it is right: by
// Parseval's theorem it is the number of points times that of the signal.
func fft() (string, error) {
	points := make([]complex128, fftPoints)
	for i := range points {
		points[i] = complex(math.Sin(float64(i)), 0)
	}
	transform(points)
	energy := 0.0
	for _, point := range points {
		energy += real(point)*real(point) + imag(point)*imag(point)
	}
	return fmt.Sprintf("%.3e", energy), nil
}

// transform is the radix-2 algorithm; the number of points is a power of two.
func transform(points []complex128) {
	width := bits.Len(uint(len(points))) - 1
	for i := range points {
		if j := int(bits.Reverse64(uint64(i)) >> (64 - width)); i < j {
			points[i], points[j] = points[j], points[i]
		}
	}
	for size := 2; size <= len(points); size *= 2 {
		step := cmplx.Rect(1, -2*math.Pi/float64(size))
		for start := 0; start < len(points); start += size {
			factor := complex(1, 0)
			for k := start; k < start+size/2; k++ {
				upper, lower := points[k], points[k+size/2]*factor
				points[k], points[k+size/2] = upper+lower, upper-lower
				factor *= step
			}
		}
	}
}

// matrix multiplies two matrices of 1024 x 1024 numbers and gives the trace of the product.
func matrix() (string, error) {
	a, b, product := make([]float64, matrixOrder*matrixOrder), make([]float64, matrixOrder*matrixOrder), make([]float64, matrixOrder*matrixOrder)
	for i := range a {
		a[i], b[i] = float64(i%7), float64(i%5)
	}
	for row := 0; row < matrixOrder; row++ {
		for k := 0; k < matrixOrder; k++ {
			factor := a[row*matrixOrder+k]
			for column := 0; column < matrixOrder; column++ {
				product[row*matrixOrder+column] += factor * b[k*matrixOrder+column]
			}
		}
	}
	trace := 0.0
	for i := 0; i < matrixOrder; i++ {
		trace += product[i*matrixOrder+i]
	}
	return fmt.Sprint(trace), nil
}

// allocate takes 50 MiB and writes to each page of it.
func allocate() (string, error) {
	memory := make([]byte, allocatedBytes)
	for i := 0; i < len(memory); i += pageBytes {
		memory[i] = 1
	}
	return fmt.Sprint(len(memory) / pageBytes), nil
}
