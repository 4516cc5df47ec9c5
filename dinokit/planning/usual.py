"""What a plan supposes unless it is told; read also by help, for which no import of torch should be waited for."""

MFU = 0.4  # share of a device's peak that training reaches
