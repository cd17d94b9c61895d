module functions

go 1.19
