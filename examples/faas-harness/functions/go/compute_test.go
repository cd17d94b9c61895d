package main

import (
	"math"
	"math/cmplx"
	"testing"
)

func TestTransformIsTheDefinition(t *testing.T) {
	const count = 64
	points, expected := make([]complex128, count), make([]complex128, count)
	for i := range points {
		points[i] = complex(math.Sin(float64(i*i)), 0)
	}
	for k := range expected {
		for n, point := range points {
			expected[k] += point * cmplx.Rect(1, -2*math.Pi*float64(k*n)/count)
		}
	}
	transform(points)
	for k := range points {
		if cmplx.Abs(points[k]-expected[k]) > 1e-9 {
			t.Fatalf("point %d is %v instead of %v", k, points[k], expected[k])
		}
	}
}
